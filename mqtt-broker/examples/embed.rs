//! A broker inside a program: two Clients talk to each other, and no socket is opened.
//!
//! `cargo run -p mqtt-broker --example embed`

use std::time::Duration;

use mqtt_broker::Broker;
use mqtt_proto::connection::Message;
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, TopicName};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().cores(2).start()?;

    let mut display = broker.client("display")?;
    display.subscribe("house/+/temperature", SubscriptionOptions::new(Qos::AtLeastOnce))?;

    let mut sensor = broker.client("sensor")?;
    let topic = TopicName::new("house/kitchen/temperature")?;
    sensor.publish(Message::new(topic, Qos::AtLeastOnce, b"21.5"))?;

    let message = display.recv(Duration::from_secs(5))?.ok_or("no message came")?;
    println!("{} = {}", message.topic, String::from_utf8_lossy(&message.payload));

    sensor.disconnect()?;
    display.disconnect()?;
    broker.shutdown();
    broker.wait()?;
    Ok(())
}
