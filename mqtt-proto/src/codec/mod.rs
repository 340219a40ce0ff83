//! F1: framing, Maximum Packet Size, wire primitives.
