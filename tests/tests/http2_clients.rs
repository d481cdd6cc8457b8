//! Clients that others have written: curl, nghttp, and httpx with its HTTP/2 in Python.

use std::path::Path;
use std::process::{Command, Output};

use meridian_tests::{Answer, Backend, Body, Meridian, Site, block, one_region};

const LARGE: u64 = 3 << 20;

/// Says what it got, or sends much.
fn backend() -> Backend {
    Backend::answering("here", |request| match request.target.as_str() {
        "/large" => Answer::new(200, Body::Pattern(LARGE)),
        target => {
            let sum = request.trailers.get("x-sum").unwrap_or("-");
            Answer::ok(format!("{target} {} {sum}\n", request.checked.length))
        }
    })
}

#[track_caller]
fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}{error}", output.status);
    said
}

#[test]
fn curl_asks_for_many_at_once_and_uploads() {
    let site = Site::new(&[("a", &["a.example"])]);
    let backend = backend();
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], "")));
    let address = edge.address();
    let base = format!("https://a.example:{}", address.port());
    // Under TLS: without it curl 7.88 cannot use a connection of HTTP/2 twice.
    let curl = || {
        let mut curl = Command::new("curl");
        curl.args(["--http2", "--silent", "--show-error", "--max-time", "60", "--cacert"]);
        curl.arg(site.root()).arg("--resolve");
        curl.arg(format!("a.example:{}:{}", address.port(), address.ip()));
        curl
    };
    // Fifty streams of one connection, each of 3 MiB.
    let mut many = curl();
    many.args(["--parallel", "--parallel-max", "50", "--write-out", "%{size_download} "]);
    for _ in 0..50 {
        many.args(["--output", "/dev/null", &format!("{base}/large")]);
    }
    let sizes = said(&many.output().expect("curl is installed"));
    assert_eq!(sizes.split_whitespace().filter(|size| **size == LARGE.to_string()).count(), 50);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("body");
    std::fs::write(&file, block()[..].repeat(3)).expect("a file");
    let length = std::fs::metadata(&file).expect("a file").len();
    let mut upload = curl();
    upload.arg("--data-binary").arg(format!("@{}", file.display())).arg(format!("{base}/up"));
    let seen = said(&upload.output().expect("curl is installed"));
    assert_eq!(seen, format!("/up {length} -\n"));
}

#[test]
fn nghttp_pads_continues_and_sends_trailers() {
    let backend = backend();
    let edge = Meridian::start(&one_region(&backend));
    let base = format!("http://{}", edge.address());
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("body");
    std::fs::write(&file, vec![b'x'; 100_000]).expect("a file");
    let nghttp = |args: &[&str], path: &str| {
        let mut nghttp = Command::new("nghttp");
        nghttp.args(["--timeout=30"]).args(args).arg(format!("{base}{path}"));
        said(&nghttp.output().expect("nghttp is installed"))
    };
    let file = file.display().to_string();
    // Padding on every frame, trailers behind a body of unknown length.
    let seen = nghttp(
        &["--padding=100", "--no-content-length", "--trailer=x-sum: 7", "--data", &file],
        "/up",
    );
    assert_eq!(seen, "/up 100000 7\n");
    // 32 KiB of head, in CONTINUATION frames.
    assert_eq!(nghttp(&["--continuation"], "/long"), "/long 0 -\n");
    // Small windows, a small table for answers' heads, a hundred streams.
    let verbose = nghttp(
        &["--verbose", "--null-out", "--multiply=100", "--window-bits=10", "--header-table-size=0"],
        "/many",
    );
    assert_eq!(verbose.matches(":status: 200").count(), 100, "{verbose}");
    assert_eq!(backend.requests().len(), 102);
}

#[test]
fn httpx_posts_from_many_tasks_under_tls() {
    const SCRIPT: &str = "
import asyncio, ssl, sys, httpx
base, root = sys.argv[1:]
named = {'sni_hostname': 'a.example'}
async def main():
    context = ssl.create_default_context(cafile=root)
    headers = {'x-same': 'on every request', 'cookie': 'a=1; b=2'}
    async with httpx.AsyncClient(http2=True, verify=context, headers=headers, timeout=60) as client:
        async def ask(n):
            body = b'x' * (n * 1000)
            answer = await client.post(f'{base}/{n}', content=body, extensions=named)
            assert answer.http_version == 'HTTP/2', answer.http_version
            assert answer.text == f'/{n} {n * 1000} -\\n', answer.text
        for _ in range(3):
            await asyncio.gather(*(ask(n) for n in range(60)))
        large = await client.get(f'{base}/large', extensions=named)
        print(len(large.content))
asyncio.run(main())
";
    let site = Site::new(&[("a", &["a.example"])]);
    let backend = backend();
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], "")));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python");
    let python = if own.is_file() { own } else { "python3".into() };
    let base = format!("https://{}", edge.address());
    let output = Command::new(python).args(["-c", SCRIPT, &base]).arg(site.root()).output();
    assert_eq!(said(&output.expect("Python is installed")), format!("{LARGE}\n"));
    assert_eq!(backend.requests().len(), 181);
}
