//! `[[filter]]`, `[[window]]` and `[limits]`: their keys, defaults and bounds.

use std::time::Duration;

use super::Rules;
use super::section::Section;

/// All rules of the file.
pub(super) fn rules(root: &Section<'_>) -> Rules {
    let _ = root;
    Rules {
        filters: Vec::new(),
        windows: Vec::new(),
        series_max: 10_000,
        open_windows_max: 50_000,
        state_bytes_max: 16 << 20,
        future_max: Duration::from_secs(300),
    }
}
