//! What a process, with all that it started, has used so far: read from /proc.

use std::time::Duration;

/// CPU time and bytes written are totals; the resident memory is its peak.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) peak_rss_bytes: u64,
    /// Bytes that went to the disk cache to be written (`write_bytes` of /proc/PID/io).
    pub(crate) written_bytes: u64,
}

impl Cost {
    /// Of this process and its descendants, as far as they live.
    pub(crate) fn of(process: u32) -> Self {
        let mut total = Self::default();
        let mut waiting = vec![process];
        while let Some(process) = waiting.pop() {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
            // The scheduler's own count is exact; that of /proc/PID/stat comes in steps of 10 ms.
            for task in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
                let on_cpu = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let nanos = on_cpu.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
                total.cpu += Duration::from_nanos(nanos);
                let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                waiting.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            total.peak_rss_bytes += field(&read("status"), "VmHWM:") * 1024;
            total.written_bytes += field(&read("io"), "write_bytes:");
        }
        total
    }

    /// What was used since `before`; the peak stays what it is.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            peak_rss_bytes: self.peak_rss_bytes,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
