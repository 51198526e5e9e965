//! Random numbers that are the same in every run: each thread starts from one seed.
//!
//! It offers what programs written for the crate `rand` 0.4 to 0.7 use: `thread_rng`, `random`, and the trait `Rng`
//! with `gen`, `gen_range(low, high)`, `gen_bool`, `shuffle` and `choose`.

use std::cell::Cell;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

thread_local!(static STATE: Cell<u64> = Cell::new(SEED));

/// The generator of this thread: xorshift64*, whose upper bits are used.
#[derive(Clone, Debug)]
pub struct ThreadRng(());

/// Returns the generator of this thread.
pub fn thread_rng() -> ThreadRng {
    ThreadRng(())
}

/// Returns a random value.
pub fn random<T: Random>() -> T {
    T::random(&mut thread_rng())
}

/// A source of 64 random bits.
pub trait RngCore {
    /// Returns 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// Returns 32 random bits.
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }
}

impl RngCore for ThreadRng {
    fn next_u64(&mut self) -> u64 {
        STATE.with(|state| {
            let mut bits = state.get();
            bits ^= bits >> 12;
            bits ^= bits << 25;
            bits ^= bits >> 27;
            state.set(bits);
            bits.wrapping_mul(0x2545_f491_4f6c_dd1d)
        })
    }
}

impl<R: RngCore + ?Sized> RngCore for &mut R {
    fn next_u64(&mut self) -> u64 {
        (**self).next_u64()
    }
}

/// A type of which a random value can be made: whole numbers of all sizes, numbers in [0, 1), bool.
pub trait Random {
    /// Returns a random value.
    fn random<R: RngCore + ?Sized>(rng: &mut R) -> Self;
}

/// A type of which a random value between two others can be made.
pub trait Uniform: Sized {
    /// Returns a value from `low` up to, not including, `high`.
    fn between<R: RngCore + ?Sized>(rng: &mut R, low: Self, high: Self) -> Self;
}

macro_rules! whole {
    ($($kind:ty),*) => {$(
        impl Random for $kind {
            fn random<R: RngCore + ?Sized>(rng: &mut R) -> Self {
                rng.next_u64() as $kind
            }
        }
        impl Uniform for $kind {
            fn between<R: RngCore + ?Sized>(rng: &mut R, low: Self, high: Self) -> Self {
                assert!(low < high, "Rng.gen_range called with low >= high");
                let span = (high as i128).wrapping_sub(low as i128) as u128;
                (low as i128).wrapping_add((u128::from(rng.next_u64()) % span) as i128) as $kind
            }
        }
    )*};
}
whole!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, u128, i128);

macro_rules! real {
    ($($kind:ty),*) => {$(
        impl Random for $kind {
            fn random<R: RngCore + ?Sized>(rng: &mut R) -> Self {
                (rng.next_u64() >> 40) as $kind / (1u64 << 24) as $kind
            }
        }
        impl Uniform for $kind {
            fn between<R: RngCore + ?Sized>(rng: &mut R, low: Self, high: Self) -> Self {
                assert!(low < high, "Rng.gen_range called with low >= high");
                low + (high - low) * <$kind as Random>::random(rng)
            }
        }
    )*};
}
real!(f32, f64);

impl Random for bool {
    fn random<R: RngCore + ?Sized>(rng: &mut R) -> Self {
        rng.next_u64() >> 63 == 1
    }
}

/// What users call.
pub trait Rng: RngCore {
    /// Returns a random value.
    fn gen<T: Random>(&mut self) -> T {
        T::random(self)
    }

    /// Returns a value from `low` up to, not including, `high`.
    fn gen_range<T: Uniform>(&mut self, low: T, high: T) -> T {
        T::between(self, low, high)
    }

    /// Returns true with a probability.
    fn gen_bool(&mut self, probability: f64) -> bool {
        <f64 as Random>::random(self) < probability
    }

    /// Puts values into a random order.
    fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = usize::between(self, 0, last + 1);
            values.swap(last, other);
        }
    }

    /// Returns one of the values; None if there are none.
    fn choose<'a, T>(&mut self, values: &'a [T]) -> Option<&'a T> {
        if values.is_empty() {
            return None;
        }
        values.get(usize::between(self, 0, values.len()))
    }
}

impl<R: RngCore + ?Sized> Rng for R {}

/// Names by which programs import the traits.
pub mod prelude {
    pub use super::{random, thread_rng, Rng, RngCore, ThreadRng};
}

/// Names by which programs import the generator.
pub mod rngs {
    pub use super::ThreadRng;
}
