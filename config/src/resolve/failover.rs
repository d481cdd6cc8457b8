//! `[services.failover]`

use std::time::Duration;

use super::{MOST_AT_ONCE, at_least, warn_without_effect};
use crate::model::{Failback, Failover, FailoverMode, WritePark};
use crate::reader::{Item, Table};

const HOLD: Duration = Duration::from_secs(10);
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_LAG: Duration = Duration::from_secs(10);
const COOLDOWN: Duration = Duration::from_secs(60);
const FAILBACK_AFTER: Duration = Duration::from_secs(300);
const FAILBACK_MAX_LAG: Duration = Duration::from_secs(1);
/// The longest that a hook may take.
const LONGEST_HOOK: Duration = Duration::from_secs(1800);
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
        hook_timeout: table.or("hook_timeout", HOOK_TIMEOUT, |item| {
            item.duration(Duration::from_millis(100)..=LONGEST_HOOK)
        }),
        hold: table.or("hold", HOLD, |item| item.duration(at_least(100))),
        max_lag: table.or("max_lag", MAX_LAG, |item| item.duration(at_least(0))),
        cooldown: table.or("cooldown", COOLDOWN, |item| item.duration(at_least(0))),
        failback_after: table
            .or("failback_after", FAILBACK_AFTER, |item| item.duration(at_least(0))),
        failback_max_lag: table
            .or("failback_max_lag", FAILBACK_MAX_LAG, |item| item.duration(at_least(0))),
        failback: table.or("failback", Failback::Manual, |item| item.choice(&failbacks)),
        write_park: table.section("write_park", write_park),
    };
    if mode != FailoverMode::Hook {
        let because = "unless mode = \"hook\"";
        warn_without_effect(table, "hold", &failover.hold, &HOLD, because);
    }
    if failover.hook.is_empty() {
        let because = "without a hook";
        warn_without_effect(table, "hook_timeout", &failover.hook_timeout, &HOOK_TIMEOUT, because);
        if failover.failback == Failback::Automatic && mode == FailoverMode::Follow {
            let message = "failback = \"automatic\" needs a hook, or mode = \"manual\": in mode \
                           \"follow\" the edge promotes nobody";
            table.site_of("failback").error(table.cx, message);
        }
    }
    failover
}

fn hook(table: &Table<'_>, mode: FailoverMode) -> Vec<String> {
    let item = table.item("hook");
    let words = |item: &Item<'_>| item.list(|item| Some(item.text()?.into_owned()));
    let mut hook = item.as_ref().map(words).unwrap_or_default();
    match (mode, &item, hook.first()) {
        (_, Some(_), Some(program)) if !program.is_empty() => {}
        (_, Some(item), _) if !item.is_array() => {}
        (_, Some(item), _) => {
            item.site().error(table.cx, "names no program");
        }
        (FailoverMode::Hook, ..) => {
            let message = "mode = \"hook\" needs hook: a program and its arguments, such as \
                           [\"/etc/meridian/promote.sh\"]";
            table.site_of("hook").error(table.cx, message);
        }
        (_, None, _) => {}
    }
    if let Some(program) = hook.first_mut() {
        *program = table.cx.resolve(program).display().to_string();
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
