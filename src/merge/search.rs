//! Which part of a batch is tested next, and which item breaks it: plain counting, no I/O.
//!
//! A batch is a chain of squash commits, each on top of the one before. Its first `n` items are
//! tested as one tree; what passed lands at once, up to there. A failure of all of them is
//! repeated once on the identical tree, if it looks like a flake; then the smallest part that
//! fails is looked for by halves. Its last item is the culprit: everything before it has landed,
//! and with it on top the tree fails. What comes after it was never judged and is merged anew.

/// What to do next with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Test the tree of the first so many items.
    Test(usize),
    /// Land the first so many items: exactly their tree has passed.
    Land(usize),
    /// Give back the item at this index: all before it have landed, and it fails on top of them.
    Blame(usize),
    /// All have landed.
    Done,
}

/// How far the tests of a batch have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    len: usize,
    landed: usize,
    passed: usize,
    /// The smallest part that is known to fail.
    failing: Option<usize>,
    /// Whether the failure of all of them may be a flake that was not tried again.
    again: bool,
    /// How often all of them failed.
    failures: usize,
}

impl Search {
    /// A batch of `len` items of which nothing is known.
    pub fn new(len: usize) -> Self {
        Self { len, landed: 0, passed: 0, failing: None, again: false, failures: 0 }
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        if self.passed > self.landed {
            return Next::Land(self.passed);
        }
        match self.failing {
            _ if self.landed == self.len => Next::Done,
            None => Next::Test(self.len),
            Some(_) if self.again => Next::Test(self.len),
            Some(failing) if failing == self.landed + 1 => Next::Blame(self.landed),
            Some(failing) => Next::Test(self.landed.midpoint(failing)),
        }
    }

    /// The tree of the first `count` items has passed.
    pub fn passed(&mut self, count: usize) {
        self.passed = self.passed.max(count);
        if count == self.len {
            self.failing = None;
            self.again = false;
        }
    }

    /// The tree of the first `count` items has failed.
    pub fn failed(&mut self, count: usize, looks_like_a_flake: bool) {
        if count == self.len {
            self.failures += 1;
            self.again = looks_like_a_flake && self.failures == 1;
        }
        self.failing = Some(self.failing.map_or(count, |failing| failing.min(count)));
    }

    /// The first `count` items stand on the base branch.
    pub fn landed(&mut self, count: usize) {
        self.landed = count;
    }

    /// Whether the next test is the second one of the identical tree.
    pub fn is_second_try(&self) -> bool {
        self.again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How one batch went.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Went {
        /// What was tested, as counts.
        tests: Vec<usize>,
        landed: usize,
        blamed: Option<usize>,
    }

    /// Goes through a batch; `fails(count, nth)` says how the `nth` test, of `count` items, ends.
    fn go(len: usize, flaky: bool, mut fails: impl FnMut(usize, usize) -> bool) -> Went {
        let (mut search, mut went) = (Search::new(len), Went::default());
        let mut tested = vec![false; len + 1];
        loop {
            match search.next() {
                Next::Test(count) => {
                    assert!(count > went.landed && count <= len, "{went:?}");
                    went.tests.push(count);
                    assert!(went.tests.len() < 30, "{went:?}");
                    if fails(count, went.tests.len()) {
                        search.failed(count, flaky);
                    } else {
                        tested[count] = true;
                        search.passed(count);
                    }
                }
                Next::Land(count) => {
                    assert!(tested[count], "what lands was tested: {went:?}");
                    assert!(count > went.landed, "{went:?}");
                    went.landed = count;
                    search.landed(count);
                }
                Next::Blame(index) => {
                    assert_eq!(index, went.landed, "all before it have landed: {went:?}");
                    went.blamed = Some(index);
                    return went;
                }
                Next::Done => {
                    assert_eq!(went.landed, len);
                    return went;
                }
            }
        }
    }

    /// How many, who breaks it, what is tested, what lands, who is blamed.
    type Case<'a> = (usize, &'a [usize], &'a [usize], usize, Option<usize>);

    #[test]
    fn a_batch_is_tested_once_retried_once_and_then_split() {
        let cases: &[Case<'_>] = &[
            (5, &[], &[5], 5, None),
            (1, &[0], &[1, 1], 0, Some(0)),
            (2, &[0], &[2, 2, 1], 0, Some(0)),
            (2, &[1], &[2, 2, 1], 1, Some(1)),
            (4, &[0], &[4, 4, 2, 1], 0, Some(0)),
            (4, &[3], &[4, 4, 2, 3], 3, Some(3)),
            (5, &[0], &[5, 5, 2, 1], 0, Some(0)),
            (5, &[2], &[5, 5, 2, 3], 2, Some(2)),
            (5, &[4], &[5, 5, 2, 3, 4], 4, Some(4)),
            (5, &[1, 3], &[5, 5, 2, 1], 1, Some(1)),
        ];
        for (len, culprits, tests, landed, blamed) in cases {
            let went =
                go(*len, true, |count, _nth| culprits.iter().any(|culprit| *culprit < count));
            let expected = Went { tests: tests.to_vec(), landed: *landed, blamed: *blamed };
            assert_eq!(went, expected, "{len} items, broken by {culprits:?}");
        }
    }

    #[test]
    fn a_flake_lands_all_and_blames_nobody() {
        let went = go(5, true, |_count, nth| nth == 1);
        assert_eq!(went, Went { tests: vec![5, 5], landed: 5, blamed: None });
    }

    #[test]
    fn what_does_not_look_like_a_flake_is_split_at_once() {
        let went = go(4, false, |count, _nth| count > 1);
        assert_eq!(went, Went { tests: vec![4, 2, 1], landed: 1, blamed: Some(1) });
    }

    #[test]
    fn the_whole_may_pass_where_a_part_would_not() {
        // The third mends what the second breaks: together they are fine, and land together.
        let went = go(3, true, |count, _nth| count == 2);
        assert_eq!(went, Went { tests: vec![3], landed: 3, blamed: None });
    }

    /// A queue in which each of `culprits` (a bit an item) fails for itself, in batches until it is
    /// empty: who landed, who was blamed, how many tests.
    fn work_off(len: usize, culprits: u32) -> (Vec<usize>, Vec<usize>, usize) {
        let mut queue: Vec<usize> = (0..len).collect();
        let (mut landed, mut blamed, mut tests) = (vec![], vec![], 0);
        while !queue.is_empty() {
            let bad = |item: &usize| culprits & (1 << item) != 0;
            let went = go(queue.len(), true, |count, _nth| queue[..count].iter().any(bad));
            tests += went.tests.len();
            landed.extend(queue.drain(..went.landed));
            if went.blamed.is_some() {
                blamed.push(queue.remove(0));
            }
        }
        (landed, blamed, tests)
    }

    #[test]
    fn whoever_breaks_a_batch_the_good_ones_land_in_order_and_the_culprits_are_found() {
        for len in 1..=7 {
            for culprits in 0..1_u32 << len {
                let (landed, blamed, tests) = work_off(len, culprits);
                let is_bad = |item: &usize| culprits & (1 << item) != 0;
                let (bad, good): (Vec<usize>, Vec<usize>) = (0..len).partition(is_bad);
                assert_eq!((landed, blamed), (good, bad.clone()), "{len} items, {culprits:b}");
                match bad.len() {
                    0 => assert_eq!(tests, 1),
                    1 if len <= 5 => assert!(tests <= 6, "{len} items, {culprits:b}: {tests}"),
                    _ => {}
                }
            }
        }
    }
}
