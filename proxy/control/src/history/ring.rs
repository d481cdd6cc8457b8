//! The last changes of state, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::HistoryEvent;

/// So many of the newest events, by ascending number.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Arc<HistoryEvent>>,
    most: usize,
    next: u64,
}

/// What somebody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) service: Option<String>,
    pub(crate) region: Option<String>,
    /// Not before, unix milliseconds.
    pub(crate) since_unix_ms: Option<u64>,
    /// Only above this number, the oldest first to count.
    pub(crate) after: Option<u64>,
    /// Only below this number.
    pub(crate) before: Option<u64>,
    /// At most so many.
    pub(crate) limit: usize,
}

/// What there is, by ascending number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) events: Vec<Arc<HistoryEvent>>,
    /// Whether the limit left some out.
    pub(crate) more: bool,
}

impl Query {
    /// What names no service concerns all of them; likewise regions.
    fn takes(&self, event: &HistoryEvent) -> bool {
        let concerns = |wanted: &Option<String>, named: &Option<String>| {
            wanted.is_none() || named.is_none() || wanted == named
        };
        concerns(&self.service, &event.service)
            && concerns(&self.region, &event.region)
            && self.since_unix_ms.is_none_or(|since| event.unix_ms >= since)
            && self.after.is_none_or(|after| event.seq > after)
            && self.before.is_none_or(|before| event.seq < before)
    }
}

impl Ring {
    /// Holds the newest of an earlier process's events.
    pub(super) fn new(most: usize, restored: Vec<HistoryEvent>) -> Self {
        let next = restored.last().map_or(1, |last| last.seq + 1);
        let excess = restored.len().saturating_sub(most);
        let events = restored.into_iter().skip(excess).map(Arc::new).collect();
        Self { events, most, next }
    }

    /// Gives an event its number, and forgets the oldest if there is no room.
    pub(super) fn push(&mut self, mut event: HistoryEvent) -> Arc<HistoryEvent> {
        event.seq = self.next;
        self.next += 1;
        let event = Arc::new(event);
        if self.events.len() >= self.most {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The number of the newest event, of this process or an earlier one; 0: there was none.
    pub(super) fn newest(&self) -> u64 {
        self.next - 1
    }

    /// The number of the oldest event that is kept.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.events.front().map(|event| event.seq)
    }

    pub(super) fn page(&self, query: &Query) -> Page {
        let matching = || self.events.iter().filter(|event| query.takes(event));
        let mut events: Vec<_> = match query.after {
            Some(_) => matching().take(query.limit + 1).cloned().collect(),
            None => matching().rev().take(query.limit + 1).cloned().collect(),
        };
        let more = events.len() > query.limit;
        events.truncate(query.limit);
        if query.after.is_none() {
            events.reverse();
        }
        Page { events, more }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;

    fn ring(most: usize) -> Ring {
        let mut ring = Ring::new(most, Vec::new());
        for n in 1..=10 {
            let service = (n % 2 == 0).then_some("api");
            let region = if n <= 5 { Some("eu") } else { Some("us") };
            ring.push(HistoryEvent { unix_ms: n * 100, ..event(service, region, "down") });
        }
        ring
    }

    fn page(ring: &Ring, query: Query) -> (Vec<u64>, bool) {
        let page = ring.page(&query);
        (page.events.iter().map(|event| event.seq).collect(), page.more)
    }

    fn all() -> Query {
        Query { limit: 100, ..Query::default() }
    }

    #[test]
    fn the_oldest_are_forgotten_and_numbers_go_on() {
        let ring = ring(4);
        assert_eq!(page(&ring, all()), (vec![7, 8, 9, 10], false));
        assert_eq!((ring.len(), ring.oldest(), ring.newest()), (4, Some(7), 10));
        let empty = Ring::new(4, Vec::new());
        assert_eq!((page(&empty, all()), empty.newest()), ((vec![], false), 0));
    }

    #[test]
    fn what_was_restored_comes_first() {
        let old = (1..=5).map(|seq| HistoryEvent { seq: seq * 10, ..event(None, None, "x") });
        let mut ring = Ring::new(3, old.collect());
        assert_eq!(page(&ring, all()), (vec![30, 40, 50], false));
        assert_eq!(ring.push(event(None, None, "x")).seq, 51);
        assert_eq!(page(&ring, all()), (vec![40, 50, 51], false));
    }

    #[test]
    fn filters_take_what_concerns_all() {
        let ring = ring(100);
        let api = Query { service: Some("api".into()), ..all() };
        assert_eq!(page(&ring, api).0.len(), 10, "every other one names no service");
        let web = Query { service: Some("web".into()), ..all() };
        assert_eq!(page(&ring, web).0, [1, 3, 5, 7, 9]);
        let us = Query { region: Some("us".into()), service: Some("web".into()), ..all() };
        assert_eq!(page(&ring, us).0, [7, 9]);
        let since = Query { since_unix_ms: Some(800), ..all() };
        assert_eq!(page(&ring, since).0, [8, 9, 10]);
    }

    #[test]
    fn pages_go_forward_and_back() {
        let ring = ring(100);
        let limited = |after, before| Query { after, before, limit: 3, ..Query::default() };
        assert_eq!(page(&ring, limited(None, None)), (vec![8, 9, 10], true));
        assert_eq!(page(&ring, limited(None, Some(8))), (vec![5, 6, 7], true));
        assert_eq!(page(&ring, limited(None, Some(4))), (vec![1, 2, 3], false));
        assert_eq!(page(&ring, limited(Some(0), None)), (vec![1, 2, 3], true));
        assert_eq!(page(&ring, limited(Some(7), None)), (vec![8, 9, 10], false));
        assert_eq!(page(&ring, limited(Some(10), None)), (vec![], false));
        assert_eq!(page(&ring, limited(Some(2), Some(5))), (vec![3, 4], false));
    }
}
