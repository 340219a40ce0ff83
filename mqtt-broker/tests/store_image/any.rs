//! Whatever records there are and in whatever order: an image or an error, and an image can do all that images do.

use mqtt_broker::store::image::{Home, Image};
use mqtt_broker::store::record::Record;
use proptest::prelude::*;

use crate::history::{SEED, decode, raw};
use crate::model::lines;
use crate::records::{Fields, fields, kinds, record};

/// Any fields, but that all is about two sessions.
fn about_two_sessions() -> impl Strategy<Value = Fields> {
    let name = |mut fields: Fields| {
        fields.text = if fields.text.len().is_multiple_of(2) { "a" } else { "b" }.to_owned();
        fields
    };
    fields().prop_map(name)
}

proptest! {
    #[test]
    fn any_records_in_any_order_make_an_image_or_an_error(
        records in prop::collection::vec((prop::sample::select(kinds().collect::<Vec<_>>()), about_two_sessions(), 0..4u8, 1..9u64), 0..60),
        now in any::<u64>(),
        cores in 1..4u16,
    ) {
        let mut image = Image::new(SEED);
        for (kind, fields, way, seq) in &records {
            let record = record(*kind, fields);
            let is_missing = match way {
                0 => image.apply_snapshot(*seq, &record).is_err(),
                _ => image.apply(*seq, &record).is_err(),
            };
            let keeps = matches!(
                record,
                Record::Retained
                    | Record::Again { .. }
                    | Record::HandOn { .. }
                    | Record::GroupQueued { .. }
                    | Record::Enqueued { .. }
                    | Record::Will { .. }
            );
            prop_assert!(keeps || !is_missing);
        }
        let mut read = Image::new(SEED);
        image.write_snapshot(|record| {
            read.apply_snapshot(1, &decode(&raw(record))).expect("a whole snapshot");
        });
        prop_assert_eq!(lines(&read), lines(&image));
        image.expire(now, |_| {});
        let home = |what: Home<'_>, cores: u16| match what {
            Home::Session(text) | Home::Group(text) => text.len() as u16 % cores,
            Home::Retained(topic) => topic.as_bytes().len() as u16 % cores,
        };
        let dealt = Image::deal(vec![image, read], cores, SEED, home);
        prop_assert_eq!(dealt.len(), usize::from(cores));
    }
}
