//! `[services.failover]` and `regions.failover_order`: what is taken, and what is an error.

use std::path::Path;
use std::time::Duration;

use meridian_config::{Config, Failback, FailoverMode};

fn parse(order: &str, failover: &str) -> Result<(Config, Vec<String>), String> {
    let text = format!(
        "[[listeners]]\nname = \"p\"\naddress = \"127.0.0.1:1\"\n\
         [[regions]]\nid = \"us\"\n{order}\n\
         [[services]]\nname = \"api\"\npolicy = \"priority\"\n\
         [services.replication]\nsource = \"status\"\n\
         [services.failover]\n{failover}\n\
         [[services.endpoints]]\nregion = \"us\"\naddress = \"10.0.0.1:80\"\n\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n"
    );
    let loaded = Config::parse(&text, Path::new("/etc/m/m.toml"), &|_| None);
    let loaded = loaded.map_err(|errors| errors.to_string())?;
    Ok((loaded.config, loaded.warnings.iter().map(ToString::to_string).collect()))
}

#[test]
fn everything_has_a_default() {
    let (config, warnings) = parse("", "").expect("a configuration");
    let failover = &config.services[0].failover;
    assert_eq!((failover.mode, failover.failback), (FailoverMode::Follow, Failback::Manual));
    assert_eq!((failover.hook.len(), config.regions[0].failover_order), (0, 0));
    let seconds = |value: Duration| value.as_secs();
    assert_eq!(seconds(failover.hold), 10);
    assert_eq!(seconds(failover.hook_timeout), 60);
    assert_eq!(seconds(failover.max_lag), 10);
    assert_eq!(seconds(failover.cooldown), 60);
    assert_eq!(seconds(failover.failback_after), 300);
    assert_eq!(seconds(failover.failback_max_lag), 1);
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn a_hook_is_for_every_mode_and_starts_from_the_files_directory() {
    for mode in ["follow", "manual", "hook"] {
        let lines = format!("mode = \"{mode}\"\nhook = [\"promote.sh\", \"-v\"]");
        let (config, _) = parse("failover_order = 3", &lines).expect("a configuration");
        assert_eq!(config.services[0].failover.hook, ["/etc/m/promote.sh", "-v"]);
        assert_eq!(config.regions[0].failover_order, 3);
        let text = config.effective_toml();
        assert!(text.contains("failover_order = 3"), "{text}");
        assert!(text.contains("hook = [\"/etc/m/promote.sh\", \"-v\"]"), "{text}");
        let again = Config::parse(&text, Path::new("/else/m.toml"), &|_| None).expect("reads");
        assert_eq!(again.config.services, config.services);
    }
}

#[test]
fn what_cannot_work_is_an_error() {
    for (order, lines, error) in [
        ("", "mode = \"hook\"", "needs hook"),
        ("", "hook = []", "names no program"),
        ("", "hook = [\"\"]", "names no program"),
        ("", "mode = \"hook\"\nhook = []", "names no program"),
        ("", "hook = \"promote.sh\"", "expected an array"),
        ("", "failback = \"automatic\"", "needs a hook"),
        ("", "hook = [\"x\"]\nhook_timeout = \"1h\"", "is not from 100ms to 30m"),
        ("", "cooldown = 5", "a duration needs a unit"),
        ("failover_order = 1001", "", "is not from 0 to 1000"),
    ] {
        let errors = parse(order, lines).expect_err(lines);
        assert!(errors.contains(error), "{lines}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{lines}: {errors}");
    }
    let manual = "mode = \"manual\"\nfailback = \"automatic\"";
    assert!(parse("", manual).is_ok(), "the edge itself raises the epoch");
    let (_, warnings) = parse("", "hook_timeout = \"5s\"").expect("a configuration");
    assert!(warnings.iter().any(|warning| warning.contains("without a hook")), "{warnings:?}");
}
