//! Which acks settle what a batch settled.
//!
//! Law: a `multiple` ack settles every lower tag of the channel, also one that still stands in a buffer unread. It is used
//! only for the contiguous run of settled tags from the lowest open one; beyond that run each tag is acked by itself.

use std::collections::{BTreeMap, BTreeSet};

/// One ack as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// The tag that it names.
    pub(super) tag: u64,
    /// Whether it settles every lower one too.
    pub(super) multiple: bool,
}

/// Which tags of the channel are settled. The broker numbers them 1, 2, 3 …
#[derive(Default)]
pub(super) struct Tags {
    /// Every tag up to here is settled.
    floor: u64,
    /// Settled ones above it.
    above: BTreeSet<u64>,
    /// Given and not settled, with their sizes.
    pub(super) open: BTreeMap<u64, usize>,
    /// All of those.
    pub(super) bytes: usize,
}

impl Tags {
    /// The broker gave a message of so many bytes.
    pub(super) fn given(&mut self, tag: u64, bytes: usize) {
        self.open.insert(tag, bytes);
        self.bytes += bytes;
    }

    /// Whether it was open.
    fn close(&mut self, tag: u64) -> bool {
        let bytes = self.open.remove(&tag);
        self.bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }

    /// Settles tags that are open, and says which acks do that.
    pub(super) fn settle(&mut self, tags: impl Iterator<Item = u64>) -> Vec<Ack> {
        let fresh: BTreeSet<u64> = tags.filter(|tag| self.close(*tag)).collect();
        self.above.extend(&fresh);
        while self.above.first() == Some(&(self.floor + 1)) {
            self.above.pop_first();
            self.floor += 1;
        }
        // The broker refuses an ack of a tag that is not open any more, so the run ends at one that was settled just now.
        let run = fresh.range(..=self.floor).next_back().copied();
        let mut acks: Vec<_> = run.map(|tag| Ack { tag, multiple: true }).into_iter().collect();
        acks.extend(fresh.range(self.floor + 1..).map(|tag| Ack { tag: *tag, multiple: false }));
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(tags: impl IntoIterator<Item = u64>) -> Tags {
        let mut all = Tags::default();
        tags.into_iter().for_each(|tag| all.given(tag, 1));
        all
    }

    #[test]
    fn a_contiguous_run_is_one_ack() {
        let mut tags = given(1..=4);
        assert_eq!(tags.settle([2, 1, 3].into_iter()), [Ack { tag: 3, multiple: true }]);
    }

    #[test]
    fn a_tag_that_is_still_unread_is_never_swept_up() {
        // 2 was delivered to another queue's buffer and nobody has read it yet.
        let mut tags = given([1, 3]);
        assert_eq!(tags.settle([1, 3].into_iter()), [Ack { tag: 1, multiple: true }, Ack { tag: 3, multiple: false }]);
        tags.given(2, 1);
        assert_eq!(tags.settle([2].into_iter()), [Ack { tag: 2, multiple: true }]);
        tags.given(4, 1);
        assert_eq!(tags.settle([4].into_iter()), [Ack { tag: 4, multiple: true }]);
    }

    #[test]
    fn nothing_is_acked_twice() {
        let mut tags = given(1..=3);
        tags.settle([1, 2].into_iter());
        assert_eq!(tags.settle([1, 2, 9].into_iter()), []);
    }

    #[test]
    fn what_is_held_is_weighed() {
        let mut tags = Tags::default();
        tags.given(1, 100);
        tags.given(2, 10);
        tags.settle([1, 1, 7].into_iter());
        assert_eq!(tags.bytes, 10);
    }
}
