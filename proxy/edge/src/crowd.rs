//! Caps on what is there at once: connections and requests on the edge, on a route, from one client.
//!
//! Counted over all workers with atomics, and only where the configuration sets a cap (connections of the edge always
//! are); what began before a cap was set does not count towards it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use meridian_config::RouteIndex;
use meridian_routing::{Filter, Refusal, RouteCounters, RoutingTable};

use crate::admit::Admitted;
use crate::identify::is_trusted;
use crate::memory::Room;
use crate::tally::{Over, Tally};

/// What all workers count together.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// [`Room`] as of the last look.
    memory: AtomicU8,
    /// Requests for which there is memory; 0: any number.
    most_requests: AtomicUsize,
    client_connections: OnceLock<Tally>,
    client_requests: OnceLock<Tally>,
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The edge has as many as it may.
    Edge,
    /// The memory is short.
    Memory,
    /// Its client has.
    Client,
}

/// Counts a request wherever there is a cap, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Member {
    client: Option<(Arc<Crowd>, usize)>,
    route: Option<Arc<RouteCounters>>,
    edge: Option<Arc<Crowd>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some((crowd, slot)) = &self.client {
            leave(&crowd.client_requests, *slot);
        }
        if let Some(counters) = &self.route {
            counters.leave();
        }
        if let Some(crowd) = &self.edge {
            crowd.requests.fetch_sub(1, Relaxed);
        }
    }
}

fn leave(tally: &OnceLock<Tally>, slot: usize) {
    if let Some(tally) = tally.get() {
        tally.leave(slot);
    }
}

/// Counts one in unless `most` are there.
fn enter(count: &AtomicUsize, most: usize) -> bool {
    let entered = count.fetch_add(1, Relaxed) < most;
    if !entered {
        count.fetch_sub(1, Relaxed);
    }
    entered
}

impl Crowd {
    /// Counts a connection in: `most` on the edge, `per_client` of one address unless it is a trusted proxy's. What comes
    /// back goes to [`disconnect`](Self::disconnect).
    pub(crate) fn connect(
        &self,
        most: usize,
        per_client: Option<u32>,
        peer: IpAddr,
        trusted: &[IpNet],
    ) -> Result<Option<usize>, Full> {
        if self.memory.load(Relaxed) >= Room::Crowded as u8 {
            return Err(Full::Memory);
        }
        if !enter(&self.connections, most) {
            return Err(Full::Edge);
        }
        self.count_client(per_client, peer, trusted).inspect_err(|_| {
            self.connections.fetch_sub(1, Relaxed);
        })
    }

    /// Counts a connection, which has been counted in already, for its client: `per_client` of one address unless it is
    /// a trusted proxy's.
    pub(crate) fn count_client(
        &self,
        per_client: Option<u32>,
        client: IpAddr,
        trusted: &[IpNet],
    ) -> Result<Option<usize>, Full> {
        let client = client.to_canonical();
        let Some(most) = per_client.filter(|_| !is_trusted(client, trusted)) else {
            return Ok(None);
        };
        let tally = self.client_connections.get_or_init(Tally::new);
        tally.enter(client, most).map_err(|Over| Full::Client)
    }

    /// Says how much memory there is.
    pub(crate) fn set_memory(&self, room: Room, most_requests: Option<usize>) {
        self.memory.store(room as u8, Relaxed);
        self.most_requests.store(most_requests.unwrap_or(0), Relaxed);
    }

    /// Takes a connection out again.
    pub(crate) fn disconnect(&self, slot: Option<usize>) {
        self.connections.fetch_sub(1, Relaxed);
        if let Some(slot) = slot {
            leave(&self.client_connections, slot);
        }
    }

    /// Counts a request in that goes on or may wait, or turns it down: its client's cap first, so that a greedy one is
    /// told so.
    pub(crate) fn admit(self: &Arc<Self>, table: &RoutingTable, admitted: &mut Admitted) {
        let Some(route) = admitted.heads_for() else { return };
        if let Err((filter, status)) = self.count_in(table, route, admitted) {
            admitted.decided = Err(Refusal { route: Some(route), filter, status });
            admitted.parks = false;
        }
    }

    fn count_in(
        self: &Arc<Self>,
        table: &RoutingTable,
        route: RouteIndex,
        admitted: &mut Admitted,
    ) -> Result<(), (Filter, u16)> {
        if self.memory.load(Relaxed) >= Room::Full as u8 {
            return Err((Filter::Memory, 503));
        }
        let Admitted { member, client, .. } = admitted;
        let (limits, edge) = (&table.config.limits, &table.config.edge);
        if let Some(most) = limits.requests_per_client {
            match self.client_requests.get_or_init(Tally::new).enter(client.address, most) {
                Ok(slot) => member.client = slot.map(|slot| (self.clone(), slot)),
                Err(Over) => return Err((Filter::ClientRequests, 429)),
            }
        }
        if let Some(most) = table.route(route).max_requests {
            let counters = table.shared_counters(route);
            if !counters.enter(most) {
                return Err((Filter::RouteRequests, 503));
            }
            member.route = Some(counters.clone());
        }
        let by_memory = Some(self.most_requests.load(Relaxed)).filter(|most| *most > 0);
        let by_choice = edge.max_requests.map(|most| most as usize);
        if let Some(most) = by_choice.into_iter().chain(by_memory).min() {
            if !enter(&self.requests, most) {
                let chosen = by_choice == Some(most);
                return Err((if chosen { Filter::EdgeRequests } else { Filter::Memory }, 503));
            }
            member.edge = Some(self.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_comes_while_memory_is_short_is_turned_away() {
        let crowd = Crowd::default();
        let connect = || crowd.connect(4, None, ip("192.0.2.1"), &[]);
        for (room, expected) in [
            (Room::Crowded, Err(Full::Memory)),
            (Room::Full, Err(Full::Memory)),
            (Room::Enough, Ok(None)),
        ] {
            crowd.set_memory(room, None);
            assert_eq!(connect(), expected, "{room:?}");
        }
    }

    #[test]
    fn connections_are_counted_on_the_edge_and_by_client() {
        let crowd = Crowd::default();
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let connect = |peer| crowd.connect(4, Some(1), ip(peer), &trusted);
        let first = connect("192.0.2.1").expect("room");
        assert_eq!(connect("::ffff:192.0.2.1"), Err(Full::Client));
        for _ in 0..2 {
            assert_eq!(connect("10.0.0.1"), Ok(None), "a proxy's count on the edge only");
        }
        let other = connect("192.0.2.2").expect("room");
        assert_eq!(connect("192.0.2.3"), Err(Full::Edge));
        crowd.disconnect(None);
        crowd.disconnect(first);
        assert_eq!(connect("192.0.2.1"), Ok(first), "it had left");
        [first, other, None].into_iter().for_each(|slot| crowd.disconnect(slot));
        assert_eq!(crowd.connections.load(Relaxed), 0);
    }
}
