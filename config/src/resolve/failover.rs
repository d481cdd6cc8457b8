//! `[services.failover]`

use std::time::Duration;

use super::{MOST_AT_ONCE, at_least, warn_without_effect};
use crate::model::{Failback, Failover, FailoverMode, WritePark};
use crate::reader::{Item, Table};

const HOLD: Duration = Duration::from_secs(10);
/// What waits in memory, for all writes of a service together.
const MOST_BYTES: u64 = 16 << 30;
/// A client is gone by then.
const LONGEST_PARK: Duration = Duration::from_secs(300);

pub(super) fn read(table: &Table<'_>) -> Failover {
    let modes = [FailoverMode::Follow, FailoverMode::Manual, FailoverMode::Hook];
    let modes = modes.map(|mode| (mode.label(), mode));
    let mode = table.or("mode", FailoverMode::Follow, |item| item.choice(&modes));
    let failbacks = [Failback::Manual, Failback::Automatic].map(|who| (who.label(), who));
    let failover = Failover {
        mode,
        hook: hook(table, mode),
        hold: table.or("hold", HOLD, |item| item.duration(at_least(100))),
        failback: table.or("failback", Failback::Manual, |item| item.choice(&failbacks)),
        write_park: table.section("write_park", write_park),
    };
    if mode != FailoverMode::Hook {
        let because = "unless mode = \"hook\"";
        warn_without_effect(table, "hold", &failover.hold, &HOLD, because);
    }
    failover
}

fn hook(table: &Table<'_>, mode: FailoverMode) -> Vec<String> {
    let item = table.item("hook");
    let words = |item: &Item<'_>| item.list(|item| Some(item.text()?.into_owned()));
    let hook = item.as_ref().map(words).unwrap_or_default();
    match (mode, &item, hook.first()) {
        (FailoverMode::Hook, _, Some(program)) if !program.is_empty() => {}
        (FailoverMode::Hook, ..) => {
            let message = "mode = \"hook\" needs hook: a program and its arguments, such as \
                           [\"/etc/meridian/promote.sh\"]";
            table.site_of("hook").error(table.cx, message);
        }
        (_, Some(item), _) => item.site().error(table.cx, "is only for mode = \"hook\""),
        (_, None, _) => {}
    }
    hook
}

fn write_park(table: &Table<'_>) -> WritePark {
    let (requests, bytes, time) = (1000, 64 << 20, Duration::from_secs(10));
    let most = *MOST_AT_ONCE.end();
    WritePark {
        requests: table.or("requests", requests, |item| item.whole(0..=most)),
        bytes: table.or("bytes", bytes, |item| item.size(0..=MOST_BYTES)),
        time: table.or("time", time, |item| item.duration(Duration::from_millis(1)..=LONGEST_PARK)),
    }
}
