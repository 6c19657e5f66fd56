//! Several addresses: in which order they are tried, and a race between them ("happy eyeballs").
//!
//! Source: RFC 8305, sections 4 and 5; asyncio's `happy_eyeballs_delay` and `interleave`.

use crate::event_loop::{EventLoop, Sleep};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// Takes turns between families, after `first` - 1 items of the first one; each family keeps its
/// order. With `first` 0 all stays as it is.
pub(crate) fn interleave<T, F: PartialEq>(
    items: Vec<T>,
    first: usize,
    family: impl Fn(&T) -> F,
) -> Vec<T> {
    if first == 0 {
        return items;
    }
    let mut mixed = Vec::with_capacity(items.len());
    let mut families: Vec<(F, VecDeque<T>)> = Vec::new();
    for item in items {
        let kind = family(&item);
        match families.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, members)) => members.push_back(item),
            None => families.push((kind, VecDeque::from([item]))),
        }
    }
    if let Some((_, members)) = families.first_mut() {
        mixed.extend(members.drain(..members.len().min(first - 1)));
    }
    while !families.is_empty() {
        mixed.extend(families.iter_mut().filter_map(|(_, members)| members.pop_front()));
        families.retain(|(_, members)| !members.is_empty());
    }
    mixed
}

/// The first attempt that succeeds; the others are dropped. An attempt begins when the one before
/// it has failed, or `delay` after that one began. The errors stand in the attempts' order.
pub(crate) async fn race<A, T, E>(
    event_loop: &EventLoop,
    attempts: impl IntoIterator<Item = A>,
    delay: Duration,
) -> Result<T, Vec<E>>
where
    A: Future<Output = Result<T, E>>,
{
    let mut waiting = attempts.into_iter();
    let mut running: Vec<(usize, Pin<Box<A>>)> = Vec::new();
    let mut errors: Vec<Option<E>> = Vec::new();
    let mut head_start = pin!(None);
    poll_fn(|cx| {
        loop {
            let latest = errors.len();
            let mut next = false;
            let mut winner = None;
            running.retain_mut(|(number, attempt)| {
                if winner.is_some() {
                    return true;
                }
                match attempt.as_mut().poll(cx) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(value)) => winner = Some(value),
                    Poll::Ready(Err(error)) => {
                        next |= *number + 1 == latest;
                        errors[*number] = Some(error);
                    }
                }
                false
            });
            if let Some(winner) = winner {
                return Poll::Ready(Ok(winner));
            }
            if let Some(head_start) = head_start.as_mut().as_pin_mut() {
                next |= Sleep::poll(head_start, cx).is_ready();
            }
            let attempt = if next || running.is_empty() { waiting.next() } else { None };
            match attempt {
                Some(attempt) => {
                    running.push((latest, Box::pin(attempt)));
                    errors.push(None);
                    head_start.set(Some(event_loop.sleep(delay)));
                }
                None if running.is_empty() => {
                    return Poll::Ready(Err(errors.drain(..).flatten().collect()));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails panics")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::future::pending;

    #[test]
    fn families_take_turns() {
        let items = ["a1", "a2", "a3", "b1", "b2", "c1"];
        let order = |first| interleave(items.to_vec(), first, |item| item.as_bytes()[0]).join(" ");
        assert_eq!(order(0), "a1 a2 a3 b1 b2 c1");
        assert_eq!(order(1), "a1 b1 c1 a2 b2 a3");
        assert_eq!(order(2), "a1 a2 b1 c1 a3 b2");
        assert_eq!(order(3), "a1 a2 a3 b1 c1 b2");
        assert_eq!(order(9), "a1 a2 a3 b1 c1 b2");
        assert_eq!(interleave(Vec::<u8>::new(), 3, |item| *item), []);
    }

    proptest! {
        #[test]
        fn each_once_and_each_family_in_order(
            families in prop::collection::vec(0..4u8, 0..20),
            first in 0..6usize,
        ) {
            let items: Vec<(usize, u8)> = families.iter().copied().enumerate().collect();
            let mixed = interleave(items.clone(), first, |item| item.1);
            let mut sorted = mixed.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&sorted, &items);
            for family in 0..4 {
                let members = |items: &[(usize, u8)]| -> Vec<_> {
                    items.iter().filter(|item| item.1 == family).copied().collect()
                };
                prop_assert_eq!(members(&mixed), members(&items));
            }
        }
    }

    /// Runs a race of attempts that note their numbers.
    fn run(
        delay: Duration,
        attempts: usize,
        act: impl AsyncFn(usize) -> Result<usize, usize>,
    ) -> (Result<usize, Vec<usize>>, Vec<usize>) {
        let event_loop = EventLoop::new().unwrap();
        let begun = RefCell::new(Vec::new());
        let attempt = async |number| {
            begun.borrow_mut().push(number);
            act(number).await
        };
        let race = race(&event_loop, (0..attempts).map(attempt), delay);
        let result = event_loop.run_until_complete(race).unwrap();
        (result, begun.take())
    }

    const EVER: Duration = Duration::from_secs(3600);

    #[test]
    fn a_failure_starts_the_next() {
        let (result, begun) = run(EVER, 4, async |number| Err(number * 10));
        assert_eq!((result, begun), (Err(vec![0, 10, 20, 30]), vec![0, 1, 2, 3]));
        let (result, begun) =
            run(EVER, 4, async |number| if number == 2 { Ok(2) } else { Err(number) });
        assert_eq!((result, begun), (Ok(2), vec![0, 1, 2]));
        let (result, begun) = run(EVER, 0, async |number| Ok(number));
        assert_eq!((result, begun), (Err(vec![]), vec![]));
    }

    #[test]
    fn the_silent_are_overtaken() {
        for delay in [Duration::ZERO, Duration::from_millis(1)] {
            let (result, begun) = run(delay, 5, async |number| match number {
                3 => Ok(3),
                _ => pending().await,
            });
            assert_eq!((result, begun), (Ok(3), vec![0, 1, 2, 3]));
        }
    }
}
