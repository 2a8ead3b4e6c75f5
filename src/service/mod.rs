//! The gateway as a service: what it tells the service manager (sd_notify(3)), and what becomes of a part that hangs.
//!
//! | file | what it is |
//! |---|---|
//! | `notify.rs` | the manager's socket: ready, reloading, stopping, a line of status, and the watchdog's food |
//! | `watch.rs` | looks after the [`beats`](crate::beats) of the parts, and feeds the watchdog while none of them hangs |
//! | `line.rs` | the line of status: what waits, and which links are down |
//! | `sandbox.rs` | what an error of the system means under a sandbox |
//!
//! Invariants:
//! - Ready means that the outbox is open and the sources are trying. What they try to reach may be away.
//! - The watchdog is fed by progress: a timer alone would go on while nothing else does.
//! - Without a service manager nothing is sent, and all else is the same.

mod line;
mod notify;
pub mod sandbox;
mod watch;

use std::time::Duration;

pub use self::notify::Notifier;
pub(crate) use self::watch::OUTBOX;
pub use self::watch::{Watch, watch};

use self::line::{Facts, Teller};
use crate::clock;
use crate::outbox::Outbox;
use crate::status::Links;

/// How often the line of status is made anew; it is sent only when there is news.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the manager's line of status true for ever, where there is a manager.
pub async fn tell(notifier: Notifier, outbox: Outbox, links: Links) {
    if !notifier.has_manager() {
        return;
    }
    let zone = jiff::tz::TimeZone::system();
    let mut teller = Teller::default();
    loop {
        let facts = Facts::new(&outbox.backlog(), &links.snapshot(), notifier.remark(), clock::wall_ms(), &zone);
        if teller.is_news(&facts, clock::monotonic()) {
            notifier.status(&facts.line());
        }
        tokio::time::sleep(LINE_INTERVAL).await;
    }
}
