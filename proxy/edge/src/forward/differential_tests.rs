//! Whatever the strict reader accepts, the head made of it is one request to other parsers as well.

use pingora_core::protocols::http::ServerSession;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::Setting;
use crate::http1::body::Framing;
use crate::http1::head::with_head;

/// Method, target, Host and framing, as pingora reads the head and finds nothing behind it.
fn as_pingora_reads(head: &str) -> Option<(String, String, Vec<String>, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(head.as_bytes()).await.ok()?;
        drop(client);
        let mut session = ServerSession::new_http1(Box::new(server));
        session.read_request().await.ok().filter(|read| *read)?;
        let request = session.req_header();
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let hosts = request.headers.get_all("host").iter().map(text).collect();
        let target = String::from_utf8_lossy(request.raw_path()).into_owned();
        let framings = request.headers.get_all("content-length").iter().count()
            + request.headers.get_all("transfer-encoding").iter().count();
        Some((request.method.to_string(), target, hosts, framings))
    })
}

/// The same, as httparse reads it with nothing tolerated; whole, to the last byte.
fn as_httparse_reads(head: &str) -> Option<(String, String)> {
    let mut slots = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut slots);
    let read = request.parse(head.as_bytes()).ok()?;
    let whole = read == httparse::Status::Complete(head.len());
    whole.then_some((request.method?.to_owned(), request.path?.to_owned()))
}

fn one_request(read: &[u8]) -> Result<bool, TestCaseError> {
    let setting = Setting::new("", "");
    let Some((head, facts)) = setting.try_head(read) else { return Ok(false) };
    let (method, target) = as_httparse_reads(&head).ok_or(TestCaseError::fail("httparse"))?;
    let seen = as_pingora_reads(&head).ok_or(TestCaseError::fail("pingora"))?;
    let original = with_head(&read[..facts.len], &setting.table.config.limits, |request, _| {
        let host = if request.authority.is_empty() { "-" } else { request.authority };
        (request.method.to_owned(), request.target.to_owned(), host.to_owned())
    });
    let (true_method, true_target, host) =
        original.map_err(|e| TestCaseError::fail(e.message()))?;
    prop_assert_eq!((&method, &target), (&true_method, &true_target));
    prop_assert_eq!((&seen.0, &seen.1), (&true_method, &true_target));
    prop_assert_eq!(seen.2, vec![host]);
    let framed = facts.framing != Framing::Empty;
    let own = matches!(method.as_str(), "POST" | "PUT" | "PATCH");
    prop_assert_eq!(seen.3, usize::from(framed || own));
    prop_assert_eq!(head.matches("\r\n\r\n").count(), 1);
    Ok(true)
}

fn line() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("Connection".to_owned()),
        Just("Transfer-Encoding".to_owned()),
        Just("Host".to_owned()),
        Just("Content-Length".to_owned()),
        Just("X-Forwarded-For".to_owned()),
        Just("Cookie".to_owned()),
        Just("Expect".to_owned()),
        Just("X-Request-Id".to_owned()),
        Just("traceparent".to_owned()),
        "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}",
    ];
    let value = prop_oneof![
        Just("chunked".to_owned()),
        Just("close, host".to_owned()),
        Just("a.example".to_owned()),
        Just("100-continue".to_owned()),
        "[0-9]{1,4}",
        "[ -~]{0,30}",
        "[\t -~\u{80}-\u{ff}]{0,12}",
    ];
    let end =
        prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "]);
    (name, prop::sample::select(vec![":", ": ", ": ", " :", ":\t"]), value, end)
        .prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_accepted_is_one_request_to_every_parser(
        method in prop_oneof![4 => prop::sample::select(vec!["GET", "POST", "OPTIONS", "PATCH"])
            .prop_map(str::to_owned), 1 => "[A-Z!-~]{1,6}"],
        target in prop_oneof!["/[!-~]{0,20}", "http://a.example[!-~]{0,10}", "[ -~]{0,10}"],
        version in prop::sample::select(vec!["1.1", "1.1", "1.1", "1.0"]),
        host in prop_oneof![4 => Just("Host: a.example\r\n"), 1 => Just("")],
        lines in vec(line(), 0..5),
    ) {
        let read = format!("{method} {target} HTTP/{version}\r\n{host}{}\r\n", lines.concat());
        one_request(read.as_bytes())?;
    }

    #[test]
    fn changed_bytes_do_not_make_a_second_request(
        changes in vec((0_usize..140, any::<u8>()), 0..4),
    ) {
        let mut read = b"POST /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nX-Long: abc def\r\n\
            Connection: x-a, close\r\nContent-Length: 0\r\nX-A: b\r\nAccept: */*\r\n\r\n".to_vec();
        for (at, byte) in changes {
            let at = at % read.len();
            read[at] = byte;
        }
        one_request(&read)?;
    }
}

#[test]
fn the_generator_s_ordinary_requests_are_accepted() {
    let read = b"GET /x HTTP/1.1\r\nHost: a.example\r\nX-A: b\r\n\r\n";
    assert!(one_request(read).expect("one request"));
}
