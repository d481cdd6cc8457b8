use super::*;

#[test]
fn durations_are_read_and_printed() {
    for (text, millis, printed) in [
        ("250ms", 250, "250ms"),
        ("5s", 5_000, "5s"),
        ("1.5s", 1_500, "1500ms"),
        ("60s", 60_000, "1m"),
        ("1m", 60_000, "1m"),
        ("2h", 7_200_000, "2h"),
        ("0s", 0, "0s"),
        ("0.5h", 1_800_000, "30m"),
    ] {
        let read = duration(text).expect(text);
        assert_eq!(read, Duration::from_millis(millis), "{text}");
        assert_eq!(show_duration(read), printed);
    }
    assert_eq!(show_duration(duration("0.25ms").expect("a duration")), "0.25ms");
    for bad in ["", "5", "s", "5 s", "-5s", "5S", "1m30s", "1.s", ".s", "1.0000000001s", "1e3s"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
    assert!(duration("99999999999999999999h").is_err());
    assert!(duration("18446744073709551615h").is_err());
}

#[test]
fn sizes_are_read_and_printed() {
    for (text, bytes, printed) in [
        ("512B", 512, "512B"),
        ("64KiB", 65_536, "64KiB"),
        ("64KB", 64_000, "64000B"),
        ("1MiB", 1 << 20, "1MiB"),
        ("1.5GiB", 3 << 29, "1536MiB"),
        ("0B", 0, "0B"),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
        assert_eq!(show_size(bytes), printed);
    }
    for bad in ["64", "64K", "64kib", "0.1B", "-1B", "18446744073709551615GiB"] {
        assert!(size(bad).is_err(), "{bad}");
    }
}

#[test]
fn variables_are_expanded() {
    let env = |name: &str| match name {
        "HOST" => Some("h".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    for (text, expanded) in [
        ("plain $1 $", "plain $1 $"),
        ("${HOST}:80", "h:80"),
        ("${NO:-x}${HOST}", "xh"),
        ("${EMPTY:-x}${EMPTY}", "x"),
        ("${NO:-}", ""),
        ("$${HOST} ${HOST}", "${HOST} h"),
    ] {
        assert_eq!(expand(text, &env).as_deref(), Ok(expanded), "{text}");
        assert_eq!(expand(&escape(expanded), &env).as_deref(), Ok(expanded));
    }
    for bad in ["${NO}", "${HOST", "${}", "${1}", "${A B}"] {
        assert!(expand(bad, &env).is_err(), "{bad}");
    }
    assert!(expand("${NO}", &env).is_err_and(|message| message.contains("NO is not set")));
}

#[test]
fn addresses() {
    for good in ["10.0.0.1:80", "[::1]:80", "db.internal:5432", "localhost:1"] {
        assert_eq!(endpoint_address(good).map(|a| a.to_string()).as_deref(), Ok(good));
    }
    for bad in ["", "a", "a:", "a:0", "a:65536", "1.2.3.400:80", "::1:80", "a b:80", "http://a:80"]
    {
        assert!(endpoint_address(bad).is_err(), "{bad}");
    }
    assert!(socket_address(":80").is_err_and(|message| message.contains("0.0.0.0:80")));
    assert_eq!(
        network("10.1.2.3/8").map(|(n, sloppy)| (n.to_string(), sloppy)),
        Ok(("10.0.0.0/8".into(), true))
    );
    assert_eq!(
        network("::1").map(|(n, sloppy)| (n.to_string(), sloppy)),
        Ok(("::1/128".into(), false))
    );
    assert!(network("10.0.0.0/33").is_err());
}

#[test]
fn status_ranges() {
    assert_eq!(status_range("204"), Ok((204, 204)));
    assert_eq!(status_range("200-299"), Ok((200, 299)));
    assert_eq!(show_status_range((200, 299)), "200-299");
    for bad in ["", "20", "299-200", "200-600", "100", "2xx", "200-"] {
        assert!(status_range(bad).is_err(), "{bad}");
    }
}
