//! The W3C trace context of a request (`traceparent`), kept with its delivery so that whatever becomes of it, years later
//! too, can be found by the trace that it came in.
//!
//! Law: it is made anew from its parts, never passed on as text, because a broker and a collector see it in the clear.

use std::fmt;

/// Where in which trace something happened (<https://www.w3.org/TR/trace-context/>, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Sampled, and "the trace id is random" of level 2; the other bits have no meaning yet and are not passed on.
const KNOWN_FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;

impl TraceParent {
    /// From its parts; `None` where an id is zero, which stands for none.
    pub fn new(trace: u128, span: u64, sampled: bool) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self { trace, span, flags: if sampled { SAMPLED } else { 0 } })
    }

    /// Reads a header field's value. A later version is read as far as this one knows it, as the specification asks.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = hex(version, 2)?;
        // 255 is forbidden, and version 0 ends here.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span, flags) = (hex(trace, 32)?, hex(span, 16)?, hex(flags, 2)?);
        let read = Self::new(trace, u64::try_from(span).ok()?, false)?;
        Some(Self { flags: u8::try_from(flags).ok()? & KNOWN_FLAGS, ..read })
    }

    /// The trace.
    pub fn trace_id(self) -> u128 {
        self.trace
    }

    /// The span in it.
    pub fn span_id(self) -> u64 {
        self.span
    }

    /// Whether whoever sent it records it.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for TraceParent {
    /// As the header field has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// So many digits, lower case: upper case is malformed here.
fn hex(part: &str, digits: usize) -> Option<u128> {
    let plain = part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(part, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_well_formed_one_is_read_and_written_alike() {
        let read = TraceParent::parse(GOOD).unwrap();
        assert_eq!(read.to_string(), GOOD);
        assert_eq!(
            (read.trace_id() >> 64, read.span_id(), read.is_sampled()),
            (0x0af7_6519_16cd_43dd, 0xb7ad_6b71_6920_3331, true)
        );
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!TraceParent::parse(&unsampled).unwrap().is_sampled());
    }

    #[test]
    fn a_malformed_one_is_none() {
        for bad in [
            "",
            "00",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-4111111111111111-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_this_one_and_nothing_else_of_it_is_passed_on() {
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fd-4111111111111111-more";
        assert_eq!(TraceParent::parse(later).unwrap().to_string(), GOOD);
    }
}
