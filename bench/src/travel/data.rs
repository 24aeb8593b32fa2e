//! The desk's events: each a key and a JSON object, a function of its number.

use super::{BOOKINGS, CUSTOMERS, FLIGHTS};

const CITIES: [(&str, &str); 12] = [
    ("London", "LHR"),
    ("New York", "JFK"),
    ("Lisbon", "LIS"),
    ("Oslo", "OSL"),
    ("Vienna", "VIE"),
    ("Zurich", "ZRH"),
    ("Porto", "OPO"),
    ("Madrid", "MAD"),
    ("Berlin", "BER"),
    ("Dublin", "DUB"),
    ("Athens", "ATH"),
    ("Prague", "PRG"),
];
/// Pairs of cities that are flown.
const ROUTES: usize = 66;

pub fn customers() -> impl Iterator<Item = (String, String)> {
    (0..CUSTOMERS).map(customer)
}

pub fn bookings() -> impl Iterator<Item = (String, String)> {
    (0..BOOKINGS).map(booking)
}

pub fn flights() -> impl Iterator<Item = (String, String)> {
    (0..FLIGHTS).map(|number| flight(number, 0))
}

fn customer(number: usize) -> (String, String) {
    let key = customer_id(number);
    let (_, home) = CITIES[number % CITIES.len()];
    let value = format!(
        r#"{{"customer_id":"{key}","name":"Customer Number {number}","seat_preference":"{}","loyalty":"{}","home_airport":"{home}"}}"#,
        ["window", "aisle"][number % 2],
        ["None", "Silver", "Gold"][number % 3],
    );
    (key, value)
}

fn booking(number: usize) -> (String, String) {
    let key = format!("B{number:06}");
    let value = format!(
        r#"{{"booking_id":"{key}","customer_id":"{}","flight_id":"{}","fare":"{}","paid":{},"currency":"EUR","seat":"{}{}"}}"#,
        customer_id(number % CUSTOMERS),
        flight_id(number * 7 % FLIGHTS),
        ["Basic", "Standard", "Flex"][number % 3],
        90 + number % 400,
        1 + number % 32,
        ["A", "B", "C", "D", "E", "F"][number % 6],
    );
    (key, value)
}

/// A flight as its update of this number leaves it.
pub fn flight(number: usize, update: usize) -> (String, String) {
    let key = flight_id(number);
    let route = number % ROUTES;
    let (origin, to) = pair(route);
    let ((origin_city, origin_airport), (destination_city, destination_airport)) =
        (CITIES[origin], CITIES[to]);
    let mixed = number * 31 + update;
    let (hour, minute) = (5 + number / ROUTES % 15, mixed % 6 * 10);
    let delayed = mixed.is_multiple_of(5);
    let value = format!(
        r#"{{"flight_id":"{key}","route":"{origin_airport}-{destination_airport}","status":"{}","delay_minutes":{},"origin_city":"{origin_city}","origin_airport":"{origin_airport}","destination_city":"{destination_city}","destination_airport":"{destination_airport}","departure":"2026-11-25T{hour:02}:{minute:02}:00","arrival":"2026-11-25T{:02}:{minute:02}:00","gate":"{}{}","aircraft":"{}","seats_free":{},"fares":{{"Standard":{},"Flex":{}}}}}"#,
        if delayed { "Delayed" } else { "OnTime" },
        if delayed { 15 + mixed % 60 } else { 0 },
        hour + 3,
        ["A", "B", "C"][mixed % 3],
        1 + mixed % 40,
        ["A320neo", "A330-900", "E195-E2"][number % 3],
        mixed % 170,
        120 + mixed % 200,
        220 + mixed % 300,
    );
    (key, value)
}

/// A question of a customer, and the key of its conversation.
pub fn question(number: usize) -> (String, String) {
    let key = customer_id(number * 13 % CUSTOMERS);
    let value = format!(
        r#"{{"customer_id":"{key}","text":"Question {number}: my flight seems to be late. Which other flight can I still catch today, and what does it cost?"}}"#
    );
    (key, value)
}

fn customer_id(number: usize) -> String {
    format!("c{number:05}")
}

fn flight_id(number: usize) -> String {
    format!("HW{number:04}-20261125")
}

/// The n-th pair of different cities, the first before the second.
fn pair(mut number: usize) -> (usize, usize) {
    let mut first = 0;
    while number >= CITIES.len() - 1 - first {
        number -= CITIES.len() - 1 - first;
        first += 1;
    }
    (first, first + 1 + number)
}
