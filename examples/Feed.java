// Feeds events from standard input, one CloudEvent (JSON) a line. Needs Java 17, and the jars of
// kafka-clients and jackson-databind with what they depend on. docs/events.md has a loop that fetches
// them into `jars`:
//
//   java -cp 'jars/*' Feed.java kafka-1:9092 < events.ndjson      a prefix of the topics may follow

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

public class Feed {
    static final Set<String> BROADCASTS = Set.of("user.set", "instance-agent.set", "instance-agent.removed");

    // acks=all is what the projector relies on. The default partitioner is murmur2 of the key.
    static Map<String, Object> settings(String kafka) {
        return Map.of("bootstrap.servers", kafka, "acks", "all", "enable.idempotence", true);
    }

    /** The name of a type without its reverse-DNS prefix: com.example.job.started is job.started. */
    static String shortened(String type) {
        String[] parts = type.split("\\.");
        return parts.length < 2 ? type : parts[parts.length - 2] + "." + parts[parts.length - 1];
    }

    static String topic(String type) {
        return switch (type.substring(0, type.indexOf('.'))) {
            case "group", "project", "member", "user" -> "membership";
            case "agent", "shared-agent", "instance-agent" -> "agent-config";
            case "job" -> "job-lifecycle";
            default -> throw new IllegalArgumentException("unknown type " + type);
        };
    }

    public static void main(String[] args) throws Exception {
        String prefix = args.length > 1 ? args[1] : "";
        ObjectMapper json = new ObjectMapper();
        StringSerializer text = new StringSerializer();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(settings(args[0]), text, text);
             var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line; (line = lines.readLine()) != null; ) {
                JsonNode event = json.readTree(line);
                String type = shortened(event.get("type").asText());
                String key = event.get("partitionkey").asText();
                String topic = prefix + topic(type);
                if (BROADCASTS.contains(type)) {
                    int partitions = producer.partitionsFor(topic).size();
                    for (int partition = 0; partition < partitions; partition++) {
                        sent.add(producer.send(new ProducerRecord<>(topic, partition, key, line)));
                    }
                } else {
                    sent.add(producer.send(new ProducerRecord<>(topic, key, line)));
                }
            }
            // An event is fed once Kafka has acknowledged it, and not before: this throws if it has not.
            for (Future<RecordMetadata> record : sent) {
                record.get();
            }
        }
        System.out.println(sent.size() + " records acknowledged by Kafka");
    }
}
