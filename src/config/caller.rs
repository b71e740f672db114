//! Who runs this process, as the operating system knows it: for the audit trail.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// The user that this process runs as, by name or by number; behind `sudo` also who asked. Somebody who may run commands
/// as root can claim to be anybody: that is said by the `root` in it.
pub fn caller() -> String {
    let Ok(process) = fs::metadata("/proc/self") else { return "os:unknown".to_owned() };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name_of(process.uid(), &passwd);
    match std::env::var("SUDO_USER") {
        Ok(asked) if process.uid() == 0 && plausible(&asked) => format!("os:{name} for {asked}"),
        _ => format!("os:{name}"),
    }
}

fn name_of(uid: u32, passwd: &str) -> String {
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    });
    named.map_or_else(|| format!("uid {uid}"), str::to_owned)
}

fn plausible(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_the_password_file_or_else_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nodd line\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!((name_of(0, passwd), name_of(1000, passwd)), ("root".into(), "ada".into()));
        assert_eq!(name_of(7, passwd), "uid 7");
        assert!(caller().starts_with("os:"));
    }
}
