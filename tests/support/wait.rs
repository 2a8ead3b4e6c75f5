//! Bounded waiting, and ports that are free.

use std::net::TcpListener;
use std::time::Duration;

use tidegate::clock;

/// Short for a number of seconds.
pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Asks again and again until there is an answer; panics with `what` when `limit` has passed.
#[track_caller]
pub(crate) fn wait_until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = clock::instant();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port of loopback that nothing listens on. It lies below the range that the kernel gives to outgoing connections:
/// otherwise, while a server is stopped, its port could become the local end of some connection, even of one to itself.
pub(crate) fn free_port() -> u16 {
    for _ in 0..1_000 {
        let port = fastrand::u16(12_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port found between 12000 and 32000 in 1000 tries");
}
