//! The contexts of one VM, by their ids.
//!
//! Every transaction adds an entry and removes it, so finding one has to cost next to nothing: ids are ours to choose, so
//! they are chosen such that no two have one place in a table. Nothing is probed where one is looked up.
//!
//! Plugin contexts come in thousands at once, and stay. Were an id's low bits its place, theirs would be one run, and every
//! few thousand transactions one would look through all of it for a free place. So places are the top bits of a product of
//! products, which lays ids out as if by chance: some forty are tried at worst, four on average where three quarters are taken.

/// Contexts by id. **Invariant:** a context is at the place of its id, or nowhere, and there are 0 or `1 << bits` places.
pub(crate) struct Contexts<C> {
    places: Vec<Option<(u32, C)>>,
    /// How many bits of the mixed id are a place.
    bits: u32,
    used: usize,
    /// The latest id given.
    last: u32,
}

impl<C> Default for Contexts<C> {
    fn default() -> Self {
        Contexts { places: Vec::new(), bits: 0, used: 0, last: 0 }
    }
}

impl<C> Contexts<C> {
    /// How many bits there are at first.
    const LEAST: u32 = 3;

    /// Where the context of that id is, if it is anywhere; beyond the places while there are none.
    #[inline]
    fn place(&self, id: u32) -> usize {
        // Each step is one to one, so that of two ids some bit differs in the end.
        let mixed = id.wrapping_mul(0x9E37_79B1);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B);
        (u64::from(mixed) >> (32 - self.bits)) as usize
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
            if self.last != 0 && matches!(self.places.get(self.place(self.last)), Some(None)) {
                return self.last;
            }
        }
    }

    /// The context of that id.
    #[inline]
    pub(crate) fn get(&self, id: &u32) -> Option<&C> {
        match self.places.get(self.place(*id)) {
            Some(Some((own, context))) if own == id => Some(context),
            _ => None,
        }
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: &u32) -> Option<&mut C> {
        let place = self.place(*id);
        match self.places.get_mut(place) {
            Some(Some((own, context))) if own == id => Some(context),
            _ => None,
        }
    }

    /// Adds a context, or replaces the one of its id.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32, context: C) {
        loop {
            let place = self.place(id);
            if let Some(free) = self.places.get_mut(place)
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
        let place = self.place(*id);
        let taken = self.places.get_mut(place)?.take_if(|(own, _)| own == id)?;
        self.used -= 1;
        Some(taken.1)
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &C)> {
        self.places.iter().flatten().map(|(id, context)| (*id, context))
    }

    /// Twice as many places. Ids that differ in their top bits when mixed still do with one bit more.
    #[cold]
    fn grow(&mut self) {
        self.bits = (self.bits + 1).max(Self::LEAST);
        let old = std::mem::take(&mut self.places);
        self.places.resize_with(1 << self.bits, || None);
        for (id, context) in old.into_iter().flatten() {
            let place = self.place(id);
            self.places[place] = Some((id, context));
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
    fn a_free_place_is_near_however_many_stay() {
        for staying in [1, 100, 12_000, 60_000] {
            let mut contexts = Contexts::<u32>::default();
            for _ in 0..staying {
                let id = contexts.next_id();
                contexts.insert(id, 0);
            }
            let (mut last, mut farthest) = (contexts.last, 0);
            for _ in 0..200_000 {
                let id = contexts.next_id();
                farthest = farthest.max(id - last);
                last = id;
                contexts.insert(id, 1);
                assert_eq!(contexts.remove(&id), Some(1));
            }
            assert!(farthest <= 64, "{farthest} ids were tried for one, beside {staying}");
        }
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
        contexts.insert(1029, 2);
        contexts.insert(5, 3);
        assert_eq!((contexts.get(&5), contexts.get(&1029)), (Some(&3), Some(&2)));
        assert_eq!(contexts.iter().count(), 2);
    }
}
