use serde::de::DeserializeOwned;

use super::Received;
use crate::types::{AppList, OrgMachines};

/// One page of a list. Without a `limit` in the request the only one.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// There are more, even if this page is short or empty. Good for 30 minutes after the first page.
    pub next_cursor: Option<String>,
}

/// Answers that come in pages.
pub trait Paged {
    /// Absent on the last page.
    fn next_cursor(&self) -> Option<&str>;

    /// Adds the page that follows.
    fn append(&mut self, next: Self);
}

impl<T> Paged for Page<T> {
    fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }

    fn append(&mut self, mut next: Self) {
        self.items.append(&mut next.items);
        self.next_cursor = next.next_cursor;
    }
}

impl Paged for AppList {
    fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref().filter(|cursor| !cursor.is_empty())
    }

    fn append(&mut self, mut next: Self) {
        self.apps.append(&mut next.apps);
        self.next_cursor = next.next_cursor;
    }
}

impl Paged for OrgMachines {
    fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref().filter(|cursor| !cursor.is_empty())
    }

    fn append(&mut self, mut next: Self) {
        self.machines.append(&mut next.machines);
        self.next_cursor = next.next_cursor;
        self.last_machine_id = next.last_machine_id.or(self.last_machine_id.take());
        self.last_updated_at = next.last_updated_at.or(self.last_updated_at.take());
        for region in next.error_regions {
            if !self.error_regions.contains(&region) {
                self.error_regions.push(region);
            }
        }
    }
}

/// A page whose cursor is in a header.
pub(super) fn page<T: DeserializeOwned>(received: &Received<'_>) -> Result<Page<T>, serde_json::Error> {
    // An empty list may be `null`: a nil slice in Go.
    let items: Option<Vec<T>> = serde_json::from_slice(received.body)?;
    Ok(Page {
        items: items.unwrap_or_default(),
        next_cursor: received.next_cursor.filter(|cursor| !cursor.is_empty()).map(str::to_owned),
    })
}
