//! Handshakes of TLS listeners.

use std::sync::atomic::Ordering::Relaxed;

use super::family::Family;
use super::names;
use crate::data_plane::DataPlane;

pub(super) fn handshakes(data_plane: &DataPlane, families: &mut Vec<Family>) {
    let mut handshakes = Family::counter(names::HANDSHAKES);
    for (listener, counters) in &data_plane.listeners {
        let tls = &counters.tls;
        let results = [
            ("full", &tls.full),
            ("resumed", &tls.resumed),
            ("failed", &tls.failed),
            ("late", &tls.late),
            ("unproven", &tls.unproven),
        ];
        // Listeners without TLS have none.
        if results.iter().all(|(_, count)| count.load(Relaxed) == 0) {
            continue;
        }
        for (result, count) in results {
            let labels = [("listener", listener.as_str()), ("result", result)];
            handshakes.count(&labels, count.load(Relaxed));
        }
    }
    families.push(handshakes);
}
