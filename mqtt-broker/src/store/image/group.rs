//! Messages that shared groups keep at their owner core until a member is done with them.

use std::collections::{BTreeMap, VecDeque};

use crate::message::Message;

/// The groups that have messages, by their whole filters.
#[derive(Debug, Default)]
pub(super) struct Groups(pub(super) BTreeMap<Box<str>, Group>);

/// The messages of a shared group, in the order of their numbers; there is at least one.
#[derive(Debug, Default)]
pub struct Group {
    pub(super) messages: VecDeque<GroupMessage>,
}

/// A message of a shared group.
#[derive(Clone, Debug)]
pub struct GroupMessage {
    /// Its number at the owner core.
    pub number: u64,
    /// The message; it expires by wall time.
    pub message: Message,
}

impl Group {
    /// Its messages, the first to be given to a member in front.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &GroupMessage> {
        self.messages.iter()
    }

    fn place(&self, number: u64) -> Result<usize, usize> {
        match self.messages.back() {
            Some(last) if last.number < number => Err(self.messages.len()),
            _ => self.messages.binary_search_by_key(&number, |message| message.number),
        }
    }

    pub(super) fn push(&mut self, message: GroupMessage) {
        match self.place(message.number) {
            Ok(place) => self.messages[place] = message,
            Err(place) => self.messages.insert(place, message),
        }
    }
}

impl Groups {
    pub(super) fn queue(&mut self, group: &str, number: u64, message: Message) {
        let message = GroupMessage { number, message };
        match self.0.get_mut(group) {
            Some(group) => group.push(message),
            None => {
                let messages = VecDeque::from([message]);
                self.0.insert(group.into(), Group { messages });
            }
        }
    }

    pub(super) fn take(&mut self, name: &str, number: u64) {
        let Some(group) = self.0.get_mut(name) else { return };
        if let Ok(place) = group.place(number) {
            group.messages.remove(place);
        }
        if group.messages.is_empty() {
            self.0.remove(name);
        }
    }

    /// Takes out the messages for which `which` is true; `taken` is told of each.
    pub(super) fn take_all(
        &mut self,
        which: impl Fn(&GroupMessage) -> bool,
        mut taken: impl FnMut(&str, u64),
    ) {
        self.0.retain(|name, group| {
            group.messages.retain(|message| {
                let goes = which(message);
                if goes {
                    taken(name, message.number);
                }
                !goes
            });
            !group.messages.is_empty()
        });
    }
}
