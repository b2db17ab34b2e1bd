import io.cloudevents.CloudEvent;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import io.cloudevents.kafka.PartitionKeyExtensionInterceptor;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends the JSON events of its standard input as Knative's KafkaSink sends those of its requests:
 * by the same serializer, interceptor and kind of record. Arguments: Kafka, the topic, the mode.
 */
public final class KafkaSink {
    public static void main(String[] args) throws Exception {
        Map<String, Object> config = new HashMap<>();
        config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        config.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, StringSerializer.class);
        config.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, CloudEventSerializer.class);
        config.put(
            ProducerConfig.INTERCEPTOR_CLASSES_CONFIG,
            PartitionKeyExtensionInterceptor.class.getName());
        config.put(CloudEventSerializer.ENCODING_CONFIG, Encoding.valueOf(args[2]).name());
        config.put(CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE);
        CloudEvent event = new JsonFormat().deserialize(System.in.readAllBytes());
        try (var producer = new KafkaProducer<String, CloudEvent>(config)) {
            producer.send(new ProducerRecord<>(args[1], event)).get();
        }
    }
}
