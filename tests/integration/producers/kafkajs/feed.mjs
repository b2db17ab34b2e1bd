// Sends events from standard input by kafkajs: KAFKA PREFIX.
import { createInterface } from "node:readline";
import { Kafka, logLevel } from "kafkajs";

const TOPICS = {
  group: "membership", project: "membership", member: "membership", user: "membership",
  agent: "agent-config", "shared-agent": "agent-config", "instance-agent": "agent-config",
  job: "job-lifecycle",
};
const BROADCASTS = ["user.set", "instance-agent.set", "instance-agent.removed"];

const [broker, prefix] = process.argv.slice(2);
const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.ERROR });
const admin = kafka.admin();
const producer = kafka.producer();
await Promise.all([admin.connect(), producer.connect()]);

for await (const line of createInterface({ input: process.stdin })) {
  const event = JSON.parse(line);
  const topic = prefix + TOPICS[event.type.split(".")[0]];
  let targets = [{}];
  if (BROADCASTS.includes(event.type)) {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    targets = topics[0].partitions.map(({ partitionId }) => ({ partition: partitionId }));
  }
  const messages = targets.map((one) => ({ ...one, key: event.partitionkey, value: line }));
  await producer.send({ topic, acks: -1, messages });
}
await Promise.all([admin.disconnect(), producer.disconnect()]);
