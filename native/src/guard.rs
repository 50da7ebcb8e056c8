//! What a panic costs: the value that it may have left half changed, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A value until a call on it panics.
pub struct Guard<T>(Option<T>);

/// The value is gone.
#[derive(PartialEq, Eq, Debug)]
pub struct Gone;

impl<T> Guard<T> {
    pub fn new(value: T) -> Guard<T> {
        Guard(Some(value))
    }

    /// Call with the value; an error if the call panics, or one did before.
    pub fn call<R>(&mut self, call: impl FnOnce(&mut T) -> R) -> Result<R, Gone> {
        let value = self.0.as_mut().ok_or(Gone)?;
        catch_unwind(AssertUnwindSafe(|| call(value))).map_err(|_| {
            self.0 = None;
            Gone
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_takes_the_value_with_it() {
        let mut guard = Guard::new(vec![1, 2, 3]);
        assert_eq!(guard.call(|numbers| numbers.len()), Ok(3));
        assert_eq!(guard.call(|numbers| numbers[7]), Err(Gone));
        assert_eq!(guard.call(|numbers| numbers.len()), Err(Gone));
    }
}
