//! The contexts of one VM, by their ids.
//!
//! Every transaction adds an entry and removes it, so finding one has to cost next to nothing: ids are ours to choose, so
//! they are chosen such that the low bits of an id are its place in a table. Nothing is hashed, nothing is probed.

/// Contexts by id. **Invariant:** the context `id` is at `id % places.len()`, which is a power of two, or nowhere.
pub(crate) struct Contexts<C> {
    places: Vec<Option<(u32, C)>>,
    used: usize,
    /// The latest id given.
    last: u32,
}

impl<C> Default for Contexts<C> {
    fn default() -> Self {
        Contexts { places: Vec::new(), used: 0, last: 0 }
    }
}

impl<C> Contexts<C> {
    /// How many places there are at first.
    const LEAST: usize = 8;

    fn place(&self, id: u32) -> Option<usize> {
        // Where there are no places, this is beyond them.
        let place = id as usize & self.places.len().wrapping_sub(1);
        (place < self.places.len()).then_some(place)
    }

    /// An id that is not in use, and whose place is free. Never 0, which is no context.
    #[inline]
    pub(crate) fn next_id(&mut self) -> u32 {
        // A quarter stays free, so that the next free place is near.
        if self.used * 4 >= self.places.len() * 3 {
            self.grow();
        }
        loop {
            self.last = self.last.wrapping_add(1);
            let taken = |place: usize| self.places[place].is_some();
            if self.last != 0 && !self.place(self.last).is_some_and(taken) {
                return self.last;
            }
        }
    }

    /// The context of that id.
    #[inline]
    pub(crate) fn get(&self, id: &u32) -> Option<&C> {
        match self.places.get(self.place(*id)?) {
            Some(Some((own, context))) if own == id => Some(context),
            _ => None,
        }
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: &u32) -> Option<&mut C> {
        let place = self.place(*id)?;
        match self.places.get_mut(place) {
            Some(Some((own, context))) if own == id => Some(context),
            _ => None,
        }
    }

    /// Adds a context, or replaces the one of its id.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32, context: C) {
        loop {
            if let Some(place) = self.place(id)
                && let Some(free) = self.places.get_mut(place)
                && free.as_ref().is_none_or(|(own, _)| *own == id)
            {
                self.used += usize::from(free.is_none());
                *free = Some((id, context));
                return;
            }
            self.grow();
        }
    }

    /// Takes a context out.
    #[inline]
    pub(crate) fn remove(&mut self, id: &u32) -> Option<C> {
        let place = self.place(*id)?;
        let taken = self.places.get_mut(place)?.take_if(|(own, _)| own == id)?;
        self.used -= 1;
        Some(taken.1)
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &C)> {
        self.places.iter().flatten().map(|(id, context)| (*id, context))
    }

    /// Twice as many places. Two ids whose low bits differ still differ with one bit more.
    #[cold]
    fn grow(&mut self) {
        let count = (self.places.len() * 2).max(Self::LEAST);
        let old = std::mem::take(&mut self.places);
        self.places.resize_with(count, || None);
        for (id, context) in old.into_iter().flatten() {
            self.places[id as usize & (count - 1)] = Some((id, context));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_whatever_comes_and_goes() {
        let mut contexts = Contexts::<u32>::default();
        assert!(contexts.get(&1).is_none() && contexts.get(&0).is_none() && contexts.remove(&3).is_none());
        let mut live = std::collections::BTreeMap::new();
        let mut random = 7u32;
        for turn in 0..20_000u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if live.len() < 300 && random >> 31 == 0 {
                let id = contexts.next_id();
                assert!(id != 0 && !live.contains_key(&id), "{id} is in use");
                contexts.insert(id, turn);
                live.insert(id, turn);
            } else if let Some((&id, _)) = live.iter().nth(random as usize % live.len().max(1)) {
                assert_eq!(contexts.remove(&id), live.remove(&id));
                assert!(contexts.get(&id).is_none() && contexts.get_mut(&id).is_none());
            }
        }
        assert!(live.iter().all(|(id, turn)| contexts.get(id) == Some(turn)));
        let mut found: Vec<_> = contexts.iter().map(|(id, _)| id).collect();
        found.sort_unstable();
        assert_eq!(found, live.keys().copied().collect::<Vec<_>>());
        assert!(contexts.places.len() <= 1024, "{} places for 300 contexts", contexts.places.len());
    }

    #[test]
    fn ids_go_round_past_zero() {
        let mut contexts = Contexts::<u32>::default();
        contexts.insert(1, 1);
        contexts.last = u32::MAX - 1;
        assert_eq!(contexts.next_id(), u32::MAX);
        let next = contexts.next_id();
        assert!(next > 1, "{next} is none, or taken");
    }

    #[test]
    fn one_id_has_one_context() {
        let mut contexts = Contexts::<u32>::default();
        contexts.insert(5, 1);
        contexts.insert(5 + (1 << 10), 2);
        contexts.insert(5, 3);
        assert_eq!((contexts.get(&5), contexts.get(&1029)), (Some(&3), Some(&2)));
        assert_eq!(contexts.iter().count(), 2);
    }
}
