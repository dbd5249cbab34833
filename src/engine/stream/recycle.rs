//! Courses that are over, for streams that begin: what one needs besides its filters' contexts is allocated once a thread
//! and as many streams as it has at a time, and not again for each.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::course::Course;
use crate::chain::Chain;
use crate::host::StreamHost;
use crate::matching::Participants;

/// How many courses a thread keeps. One is half a KiB.
const KEPT: usize = 256;

thread_local! {
    // Boxed: a stream takes one as it is, and gives it back so.
    #[allow(clippy::vec_box, reason = "see above")]
    static OVER: RefCell<Vec<Box<Course>>> = const { RefCell::new(Vec::new()) };
}

/// A course that goes to the thread's stock when it is dropped.
pub(super) struct Recycled(Option<Box<Course>>);

impl Recycled {
    /// A course at its beginning.
    #[inline]
    pub(super) fn begin(chain: &Chain, slot: usize, host: Box<dyn StreamHost>, participants: Participants) -> Self {
        // While its values are destroyed, a thread has no stock any more.
        let over = OVER.try_with(|over| over.borrow_mut().pop()).ok().flatten();
        Recycled(Some(match over {
            Some(mut course) => {
                course.begin_again(chain, slot, host, participants);
                course
            }
            None => Box::new(Course::new(chain, slot, host, participants)),
        }))
    }
}

impl Deref for Recycled {
    type Target = Course;

    #[inline]
    fn deref(&self) -> &Course {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Recycled {
    #[inline]
    fn deref_mut(&mut self) -> &mut Course {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        let Some(mut course) = self.0.take() else { return };
        // A host that is still there goes now; and not while the stock is borrowed, for it may end another stream.
        course.rest();
        let over = OVER.try_with(|over| {
            let mut over = over.borrow_mut();
            if over.len() < KEPT {
                over.push(course);
                return None;
            }
            Some(course)
        });
        drop(over);
    }
}
