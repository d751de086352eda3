//! Inputs: noise, and valid ones with a few bytes changed, cut, doubled or swapped for another's.
//!
//! All of it follows from a seed, so an input that breaks something can be made again.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Values that lengths and counters go wrong at.
const EDGES: [u8; 6] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];

/// An endless supply of inputs.
pub(crate) struct Mutator {
    random: SmallRng,
    corpus: Vec<Vec<u8>>,
    longest: usize,
    input: Vec<u8>,
}

impl Mutator {
    /// Inputs of up to `longest` bytes around those of `corpus`.
    pub(crate) fn new(seed: u64, corpus: Vec<Vec<u8>>, longest: usize) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), corpus, longest, input: Vec::with_capacity(longest) }
    }

    /// The next input. One in four is noise.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.input.clear();
        match self.corpus.choose(&mut self.random) {
            Some(valid) if !self.random.random_ratio(1, 4) => {
                self.input.extend_from_slice(valid);
                for _ in 0..self.random.random_range(0..4) {
                    self.change();
                }
            }
            _ => self.noise(),
        }
        self.input.truncate(self.longest);
        &self.input
    }

    fn noise(&mut self) {
        let longest = if self.random.random() { 64.min(self.longest) } else { self.longest };
        let length = self.random.random_range(0..=longest);
        self.input.resize(length, 0);
        self.random.fill(&mut self.input[..]);
    }

    fn change(&mut self) {
        let length = self.input.len();
        if length == 0 {
            return self.noise();
        }
        let at = self.random.random_range(0..length);
        match self.random.random_range(0..6) {
            0 => self.input[at] ^= 1 << self.random.random_range(0..8),
            1 => self.input[at] = self.random.random(),
            2 => self.input[at] = *EDGES.choose(&mut self.random).expect("there are edges"),
            3 => self.input.truncate(at),
            4 => {
                let end = (at + self.random.random_range(1..=32)).min(length);
                self.input.extend_from_within(at..end);
            }
            _ => {
                let Some(other) = self.corpus.choose(&mut self.random) else { return };
                let from = self.random.random_range(0..=other.len());
                self.input.truncate(at);
                self.input.extend_from_slice(&other[from..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let corpus = vec![vec![7; 40], b"another".to_vec()];
        let (mut one, mut other) = (Mutator::new(3, corpus.clone(), 64), Mutator::new(3, corpus, 64));
        for _ in 0..1000 {
            let input = one.next().to_vec();
            assert!(input.len() <= 64);
            assert_eq!(input, other.next());
        }
    }

    #[test]
    fn valid_inputs_and_noise_are_among_them() {
        let mut inputs = Mutator::new(1, vec![b"valid".to_vec()], 2000);
        let drawn: Vec<_> = (0..1000).map(|_| inputs.next().to_vec()).collect();
        assert!(drawn.iter().any(|input| input == b"valid"));
        assert!(drawn.iter().any(|input| input.len() > 1000));
        assert!(drawn.iter().any(Vec::is_empty));
    }
}
