package dev.headwater.bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams doing what Headwater's views do: a filter on a field, and by key the latest value, or that, the
 * last 20 values and three aggregates.
 *
 * <p>Set in its favour: values are kept as the bytes that came (none is written as JSON again), the keys of records are
 * those of the tables (no repartition topic), stores are in memory without cache and without changelog, one thread.
 *
 * <p>Prints {@code processed N} as it passes each of the counts that it was given, and {@code keys N} at the end.
 */
public final class Peer {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int LAST = 20;

    record Event(byte[] bytes, JsonNode json) {
        static Event parse(byte[] bytes) {
            try {
                return new Event(bytes, JSON.readTree(bytes));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    /** Newest last; as bytes: each with its length before it. */
    static final class History {
        final byte[][] events;

        History(byte[][] events) {
            this.events = events;
        }

        History add(byte[] event) {
            int kept = Math.min(events.length, LAST - 1);
            byte[][] next = Arrays.copyOfRange(events, events.length - kept, events.length + 1);
            next[kept] = event;
            return new History(next);
        }

        byte[] write() {
            int size = 4;
            for (byte[] event : events) {
                size += 4 + event.length;
            }
            ByteBuffer buffer = ByteBuffer.allocate(size).putInt(events.length);
            for (byte[] event : events) {
                buffer.putInt(event.length).put(event);
            }
            return buffer.array();
        }

        static History read(byte[] bytes) {
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            byte[][] events = new byte[buffer.getInt()][];
            for (int index = 0; index < events.length; index++) {
                events[index] = new byte[buffer.getInt()];
                buffer.get(events[index]);
            }
            return new History(events);
        }
    }

    record Aggregate(long count, long delay, long seats) {
        Aggregate add(JsonNode event) {
            return new Aggregate(
                    count + 1,
                    delay + event.get("delay_minutes").asLong(),
                    Math.max(seats, event.get("seats_free").asLong()));
        }

        byte[] write() {
            return ByteBuffer.allocate(24).putLong(count).putLong(delay).putLong(seats).array();
        }

        static Aggregate read(byte[] bytes) {
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            return new Aggregate(buffer.getLong(), buffer.getLong(), buffer.getLong());
        }
    }

    private static <T> Serde<T> serde(java.util.function.Function<T, byte[]> write, java.util.function.Function<byte[], T> read) {
        Serializer<T> serializer = (topic, value) -> value == null ? null : write.apply(value);
        Deserializer<T> deserializer = (topic, bytes) -> bytes == null ? null : read.apply(bytes);
        return Serdes.serdeFrom(serializer, deserializer);
    }

    private static <V> Materialized<String, V, KeyValueStore<Bytes, byte[]>> store(String name, Serde<V> serde) {
        return Materialized.<String, V>as(Stores.inMemoryKeyValueStore(name))
                .withKeySerde(Serdes.String())
                .withValueSerde(serde)
                .withCachingDisabled()
                .withLoggingDisabled();
    }

    /** Arguments: bootstrap servers, topic, application id, state directory, load (latest, three), counts. */
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        boolean three = arguments[4].equals("three");
        long[] counts = Arrays.stream(arguments).skip(5).mapToLong(Long::parseLong).toArray();
        AtomicLong processed = new AtomicLong();
        CountDownLatch done = new CountDownLatch(1);

        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, Event> events = builder.stream(topic, Consumed.with(Serdes.String(), Serdes.ByteArray()))
                .peek((key, value) -> {
                    long count = processed.incrementAndGet();
                    for (long wanted : counts) {
                        if (count == wanted) {
                            System.out.println("processed " + count);
                            System.out.flush();
                        }
                    }
                    if (count == counts[counts.length - 1]) {
                        done.countDown();
                    }
                })
                .mapValues(Event::parse)
                .filter((key, event) -> !event.json().get("status").asText().equals("archived"));
        Serde<Event> event = serde(Event::bytes, Event::parse);
        Serde<byte[]> raw = Serdes.ByteArray();
        events.mapValues(Event::bytes).toTable(store("latest", raw));
        if (three) {
            KGroupedStream<String, Event> grouped = events.groupByKey(Grouped.with(Serdes.String(), event));
            grouped.aggregate(
                    () -> new History(new byte[0][]),
                    (key, value, history) -> history.add(value.bytes()),
                    store("history", serde(History::write, History::read)));
            grouped.aggregate(
                    () -> new Aggregate(0, 0, Long.MIN_VALUE),
                    (key, value, aggregate) -> aggregate.add(value.json()),
                    store("aggregate", serde(Aggregate::write, Aggregate::read)));
        }

        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[2]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[3]);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
        done.await();
        var latest = streams.store(StoreQueryParameters.fromNameAndType("latest", QueryableStoreTypes.<String, byte[]>keyValueStore()));
        System.out.println("keys " + latest.approximateNumEntries());
        System.out.flush();
        streams.close();
    }
}
