//! Presets: named sizes, as Fly Postgres offers them. A field that is given wins over its preset.

use super::raw::Preset;
use super::types::CpuKind;

/// What a preset fills; nothing, where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) nodes: Option<u32>,
    pub(crate) cpu_kind: Option<CpuKind>,
    pub(crate) cpus: Option<u32>,
    pub(crate) memory_mb: Option<u64>,
    pub(crate) size_gb: Option<u32>,
}

impl Fill {
    pub(crate) const CHOICES: &str = "development, production-small or production-large";

    pub(crate) fn of(preset: Preset) -> Self {
        let (nodes, cpus, memory_mb, size_gb) = match preset {
            Preset::Development => (1, 1, 1024, 1),
            Preset::ProductionSmall => (3, 2, 4096, 40),
            Preset::ProductionLarge => (3, 4, 8192, 80),
        };
        Self {
            nodes: Some(nodes),
            cpu_kind: Some(CpuKind::Shared),
            cpus: Some(cpus),
            memory_mb: Some(memory_mb),
            size_gb: Some(size_gb),
        }
    }
}
