//! Idle connections of which the endpoint was told whose they are (the PROXY protocol): each serves that client only.
//!
//! Promises: never handed to another client; bounded for all clients together. Refuses to know: whether they are still
//! open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use meridian_routing::Micros;

use super::dial::Place;
use super::upstream::Idle;
use crate::proxy_protocol::Introduction;

/// Kept per worker. Of clients that have gone most are never used again: the older half makes room.
const MOST: usize = 512;

/// To which endpoint, for whom.
type Key = (Place, Introduction);

#[derive(Default)]
pub(super) struct Personal {
    idle: HashMap<Key, Vec<Idle>, RandomState>,
    count: usize,
}

impl Personal {
    /// The connections of one client to one place, the most recently used first, that are good.
    pub(super) fn take(
        &mut self,
        place: Place,
        whose: Introduction,
        mut is_good: impl FnMut(&mut Idle) -> bool,
    ) -> Option<Idle> {
        let Entry::Occupied(mut list) = self.idle.entry((place, whose)) else { return None };
        let mut found = None;
        while found.is_none()
            && let Some(mut idle) = list.get_mut().pop()
        {
            self.count -= 1;
            found = is_good(&mut idle).then_some(idle);
        }
        if list.get().is_empty() {
            list.remove();
        }
        found
    }

    pub(super) fn keep(&mut self, place: Place, whose: Introduction, idle: Idle) {
        if self.count == MOST {
            let mut ages: Vec<Micros> = self.idle.values().flatten().map(|i| i.since).collect();
            let (_, middle, _) = ages.select_nth_unstable(MOST / 2);
            let middle = *middle;
            self.retain(|idle| idle.since > middle);
        }
        self.idle.entry((place, whose)).or_default().push(idle);
        self.count += 1;
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut Idle) -> bool) {
        self.idle.retain(|_, list| {
            list.retain_mut(&mut keep);
            !list.is_empty()
        });
        self.count = self.idle.values().map(Vec::len).sum();
    }
}
