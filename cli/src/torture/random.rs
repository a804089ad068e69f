//! Chance that can be had again: the same seed, the same choices. (What the threads' schedule makes of them is another matter.)

/// A thread's own.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Of a seed and a number that tells threads apart.
    pub(super) fn new(seed: u64, thread: u64) -> Random {
        // Multiplied, so that neighbours differ in all bits; never 0, where xorshift stays.
        let mixed = (seed ^ thread.wrapping_mul(0xd134_2543_de82_ef95)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = Random((mixed ^ mixed >> 29) | 1);
        random.next();
        random
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than this.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// Once in so many times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let draw = |seed, thread| {
            let mut random = Random::new(seed, thread);
            [0; 8].map(|_: u64| random.below(1000))
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(2, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert!(draw(0, 0).iter().any(|&n| n != 0));
    }

    #[test]
    fn everything_comes_up() {
        let mut random = Random::new(0, 0);
        let mut seen = [0; 7];
        (0..700).for_each(|_| seen[random.below(7) as usize] += 1);
        assert!(seen.iter().all(|&n| n > 40), "{seen:?}");
    }
}
