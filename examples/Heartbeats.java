// Sends the lines of a growing file to Kafka, and heartbeats that vouch for them.
//
// Each line is a CloudEvent (JSON). A change has happened once its line is complete. Needs Java 17,
// and the jars of kafka-clients and jackson-databind with what they depend on; a prefix of the topics
// may follow the name of the file:
//
//   java -cp 'jars/*' Heartbeats.java kafka-1:9092 acme changes.ndjson
//   cat examples/events.ndjson >> changes.ndjson
//
// If anything fails, the program ends. Let a supervisor start it again.

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Heartbeats {
    static final long ROUND_MS = 250;
    static final String SOURCES = "sources";
    static final List<String> TOPICS = List.of("membership", "agent-config", "job-lifecycle");
    static final Set<String> BROADCASTS = Set.of("user.set", "instance-agent.set", "instance-agent.removed");
    static final ObjectMapper JSON = new ObjectMapper();

    final KafkaProducer<String, String> producer;
    final String source;
    final String prefix;
    final Path file;
    final Path place;
    /** Bytes of the file that Kafka has. Read before the ends are asked: all of it lies below them. */
    long sent;
    /** The offset of the last heartbeat that Kafka acknowledged; none in the first of a run. */
    Long after = null;
    /** Of each topic, the next offset of every partition. */
    final Map<String, long[]> offsets = new TreeMap<>();

    Heartbeats(KafkaProducer<String, String> producer, String source, String file, String prefix) throws Exception {
        this.producer = producer;
        this.source = source;
        this.prefix = prefix;
        this.file = Path.of(file);
        this.place = Path.of(file + ".sent");
        this.sent = Files.exists(place) ? Long.parseLong(Files.readString(place)) : 0;
    }

    // acks=all is what the projector relies on. The default partitioner is murmur2 of the key.
    static Map<String, Object> settings(String kafka) {
        return Map.of("bootstrap.servers", kafka, "acks", "all", "enable.idempotence", true);
    }

    static String topic(String type) {
        return switch (type.substring(0, type.indexOf('.'))) {
            case "group", "project", "member", "user" -> "membership";
            case "agent", "shared-agent", "instance-agent" -> "agent-config";
            case "job" -> "job-lifecycle";
            default -> throw new IllegalArgumentException("unknown type " + type);
        };
    }

    /** Start from the ends: what an earlier run got acknowledged lies below them. */
    void askEnds(String kafka) {
        StringDeserializer text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<>(Map.<String, Object>of("bootstrap.servers", kafka), text, text)) {
            for (String topic : TOPICS) {
                long[] ends = new long[producer.partitionsFor(prefix + topic).size()];
                List<TopicPartition> partitions = new ArrayList<>();
                for (int partition = 0; partition < ends.length; partition++) {
                    partitions.add(new TopicPartition(prefix + topic, partition));
                }
                consumer.endOffsets(partitions).forEach((partition, end) -> ends[partition.partition()] = end);
                offsets.put(topic, ends);
            }
        }
    }

    /** Send all lines that are complete, and return once Kafka has acknowledged them. */
    void sendChanges() throws Exception {
        byte[] rest;
        try (var open = new RandomAccessFile(file.toFile(), "r")) {
            rest = new byte[(int) (open.length() - sent)];
            open.seek(sent);
            open.readFully(rest);
        }
        List<Future<RecordMetadata>> unacknowledged = new ArrayList<>();
        long end = sent;
        for (int from = 0, to = 0; to < rest.length; to++) {
            if (rest[to] != '\n') {
                continue;
            }
            // The end of a line in bytes is its sequence: it grows, and is the same when sent again.
            end = sent + to + 1;
            String line = new String(rest, from, to - from, StandardCharsets.UTF_8);
            if (!line.isBlank()) {
                send(((ObjectNode) JSON.readTree(line)).put("sequence", Long.toString(end)), unacknowledged);
            }
            from = to + 1;
        }
        acknowledge(unacknowledged);
        if (end > sent) {
            sent = end;
            // Only now. Lines that were sent but not noted are sent again, and then ignored.
            Path next = Files.writeString(Path.of(place + ".new"), Long.toString(sent));
            Files.move(next, place, StandardCopyOption.ATOMIC_MOVE);
            System.out.println("Kafka has all changes up to byte " + sent);
        }
    }

    void send(ObjectNode event, List<Future<RecordMetadata>> unacknowledged) throws Exception {
        String type = event.get("type").asText();
        String key = event.get("partitionkey").asText();
        String topic = topic(type);
        if (type.startsWith("job.")) {
            acknowledge(unacknowledged); // the job's first answer needs what came before
        }
        if (!BROADCASTS.contains(type)) {
            unacknowledged.add(producer.send(new ProducerRecord<>(prefix + topic, key, event.toString())));
            return;
        }
        for (int partition = 0; partition < offsets.get(topic).length; partition++) {
            unacknowledged.add(producer.send(new ProducerRecord<>(prefix + topic, partition, key, event.toString())));
        }
    }

    /** Wait for Kafka's acknowledgements, and raise the offsets by them. */
    void acknowledge(List<Future<RecordMetadata>> unacknowledged) throws Exception {
        for (Future<RecordMetadata> future : unacknowledged) {
            RecordMetadata record = future.get();
            long[] ends = offsets.get(record.topic().substring(prefix.length()));
            if (!record.hasOffset()) { // of a send that was repeated: Kafka may have forgotten where it is
                throw new IllegalStateException("Kafka names no offset in " + record.topic() + ": start again");
            }
            if (record.offset() < ends[record.partition()]) {
                throw new IllegalStateException(record.topic() + " was created anew or lost records: feed it again");
            }
            ends[record.partition()] = record.offset() + 1;
        }
        unacknowledged.clear();
    }

    /** Vouch that all from before heartbeat `after` was acknowledged is below the offsets. */
    void sendHeartbeat() throws Exception {
        ObjectNode data = JSON.createObjectNode().put("source", source).put("after", after);
        data.set("offsets", JSON.valueToTree(offsets));
        ObjectNode event = JSON.createObjectNode()
            .put("specversion", "1.0").put("id", UUID.randomUUID().toString())
            .put("source", "/" + source).put("type", "source.heartbeat");
        event.set("data", data);
        long offset = producer.send(new ProducerRecord<>(prefix + SOURCES, source, event.toString())).get().offset();
        if (offset < 0 || after != null && offset <= after) {
            throw new IllegalStateException(SOURCES + " was created anew or lost records: start again");
        }
        after = offset;
    }

    public static void main(String[] args) throws Exception {
        StringSerializer text = new StringSerializer();
        try (var producer = new KafkaProducer<>(settings(args[0]), text, text)) {
            var sender = new Heartbeats(producer, args[1], args[2], args.length > 3 ? args[3] : "");
            sender.askEnds(args[0]);
            while (true) {
                long began = System.nanoTime();
                // The look into the file begins after the acknowledgement of the heartbeat before.
                sender.sendChanges();
                sender.sendHeartbeat();
                Thread.sleep(Math.max(0, ROUND_MS - (System.nanoTime() - began) / 1_000_000));
            }
        }
    }
}
