//! What the operating system lets this process have: open files, and so connections; and what it may leave behind: no core.

/// Raises the soft limit of open files to the hard one and says what it is now; `None` where it cannot be known.
///
/// Soft limits are 1024 on many systems, for the sake of programs that use `select`; a receiver needs one file per
/// connection. A limit that cannot be raised is not an error: fewer connections are accepted, see [`connections`].
pub fn raise_open_files() -> Option<u64> {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => {
            tracing::debug!(limit.open_files = limit, "raised the limit of open files");
            Some(limit)
        }
        Err(error) => {
            tracing::debug!(error.kind = %error.kind(), "could not raise the limit of open files");
            None
        }
    }
}

/// Has the kernel write no core of this process, also not to a program that collects them, and let nobody but root attach to
/// it: keys and deliveries are in its memory. The limit alone would not do, because a collecting program is given the core
/// whatever the limit is (core(5)). What cannot be had is not an error: such a system is no worse than before.
pub fn leave_no_core() {
    let limited = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0);
    if let Err(error) = limited {
        tracing::debug!(error.kind = %error.kind(), "could not forbid cores");
    }
    #[cfg(target_os = "linux")]
    if rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).is_err() {
        tracing::debug!("could not forbid cores to collecting programs");
    }
}

/// Files that are not connections: databases, broker, logs, sockets that listen.
const OTHER_FILES: u64 = 256;

/// How many connections of the `wanted` ones fit under a limit of open files; at least one.
pub fn connections(wanted: usize, open_files: Option<u64>) -> usize {
    let room = open_files.map_or(u64::MAX, |limit| limit.saturating_sub(OTHER_FILES).max(limit / 2).max(1));
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_the_limit_twice_ends_in_the_same_limit() {
        assert_eq!(raise_open_files(), raise_open_files());
    }

    #[test]
    fn connections_leave_files_for_the_rest_of_the_process() {
        assert_eq!(connections(12_288, Some(1_048_576)), 12_288);
        assert_eq!(connections(12_288, Some(1_024)), 768);
        assert_eq!(connections(12_288, Some(100)), 50);
        assert_eq!(connections(12_288, None), 12_288);
    }
}
