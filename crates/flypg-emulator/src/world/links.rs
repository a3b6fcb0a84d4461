//! How bad the network between machines is.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// What everything that is not a machine is called: the API, whoever uses it, and the clients beside it.
pub const OUTSIDE: &str = "outside";

/// One direction between two machines, or between a machine and [`OUTSIDE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Link {
    pub from: String,
    pub to: String,
}

/// The share of packets that a link loses, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Loss(u16);

impl Loss {
    /// A cut.
    pub const ALL: Self = Self(1000);

    /// From a share between 0 and 1; `None` for any other number.
    #[must_use]
    pub fn of(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then(|| Self((share * 1000.0).round() as u16))
    }

    #[must_use]
    pub const fn per_mille(self) -> u16 {
        self.0
    }
}

/// The links that are not good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<Link, Loss>);

impl Links {
    /// Losing nothing makes a link good again.
    pub fn set(&mut self, link: Link, loss: Loss) {
        match loss.0 {
            0 => self.0.remove(&link),
            _ => self.0.insert(link, loss),
        };
    }

    /// Makes the links to and from these ends good again; all of them if none is named.
    pub fn heal(&mut self, ends: &[String]) {
        self.0.retain(|link, _| !ends.is_empty() && !ends.contains(&link.from) && !ends.contains(&link.to));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Link, Loss)> {
        self.0.iter().map(|(link, loss)| (link, *loss))
    }
}

/// A list of `{from, to, loss}` with the loss in thousandths, since JSON has no other keys than texts.
impl Serialize for Links {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'l> {
            #[serde(flatten)]
            link: &'l Link,
            loss: Loss,
        }
        serializer.collect_seq(self.0.iter().map(|(link, loss)| Row { link, loss: *loss }))
    }
}
