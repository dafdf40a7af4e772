//! Things found by a key and named by a small number: lanes and destinations.
//!
//! Iteration is in the order of the numbers, never of the hash, so that one seed is one run.

use foldhash::{HashMap, HashMapExt as _};
use std::hash::Hash;
use std::ops::{Index, IndexMut};

#[derive(Debug)]
pub(super) struct Register<K, V> {
    entries: Vec<Option<(K, V)>>,
    free: Vec<u32>,
    by_key: HashMap<K, u32>,
}

impl<K, V> Default for Register<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), by_key: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Default> Register<K, V> {
    /// The number of `key`, registered now if it was not.
    pub(super) fn enter(&mut self, key: &K) -> u32 {
        if let Some(&number) = self.by_key.get(key) {
            return number;
        }
        let entry = Some((key.clone(), V::default()));
        let number = if let Some(number) = self.free.pop() {
            self.entries[number as usize] = entry;
            number
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("the windows keep entries far below 2^32")
        };
        self.by_key.insert(key.clone(), number);
        number
    }

    /// Forgets `number`; it will name something else.
    pub(super) fn leave(&mut self, number: u32) {
        if let Some((key, _)) = self.entries[number as usize].take() {
            self.by_key.remove(&key);
            self.free.push(number);
        }
    }

    pub(super) fn key(&self, number: u32) -> &K {
        &self.entries[number as usize].as_ref().expect("a registered number").0
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut V> {
        self.entries.get_mut(number as usize)?.as_mut().map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &K, &V)> {
        (0..).zip(&self.entries).filter_map(|(number, entry)| {
            let (key, value) = entry.as_ref()?;
            Some((number, key, value))
        })
    }

    /// The numbers in use, in ascending order.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.iter().map(|(number, _, _)| number).collect()
    }
}

impl<K, V> Index<u32> for Register<K, V> {
    type Output = V;

    fn index(&self, number: u32) -> &V {
        &self.entries[number as usize].as_ref().expect("a registered number").1
    }
}

impl<K, V> IndexMut<u32> for Register<K, V> {
    fn index_mut(&mut self, number: u32) -> &mut V {
        &mut self.entries[number as usize].as_mut().expect("a registered number").1
    }
}
