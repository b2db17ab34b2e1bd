// Sends events from standard input by franz-go: KAFKA PREFIX.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var topics = map[string]string{
	"group": "membership", "project": "membership", "member": "membership", "user": "membership",
	"agent": "agent-config", "shared-agent": "agent-config", "instance-agent": "agent-config",
	"job": "job-lifecycle",
}

var broadcasts = map[string]bool{
	"user.set": true, "instance-agent.set": true, "instance-agent.removed": true,
}

func client(kafka string, options ...kgo.Opt) *kgo.Client {
	options = append(options, kgo.SeedBrokers(kafka), kgo.RequiredAcks(kgo.AllISRAcks()))
	made, err := kgo.NewClient(options...)
	if err != nil {
		log.Fatal(err)
	}
	return made
}

func partitions(ctx context.Context, client *kgo.Client, topic string) int32 {
	request, asked := kmsg.NewPtrMetadataRequest(), kmsg.NewMetadataRequestTopic()
	asked.Topic = &topic
	request.Topics = append(request.Topics, asked)
	answer, err := request.RequestWith(ctx, client)
	if err != nil {
		log.Fatal(err)
	}
	return int32(len(answer.Topics[0].Partitions))
}

func send(ctx context.Context, client *kgo.Client, record kgo.Record) {
	if err := client.ProduceSync(ctx, &record).FirstErr(); err != nil {
		log.Fatal(err)
	}
}

func main() {
	ctx, kafka, prefix := context.Background(), os.Args[1], os.Args[2]
	byKey, byNumber := client(kafka), client(kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer byKey.Close()
	defer byNumber.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var event struct{ Type, Partitionkey string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			log.Fatal(err)
		}
		entity, _, _ := strings.Cut(event.Type, ".")
		record := kgo.Record{
			Topic: prefix + topics[entity],
			Key:   []byte(event.Partitionkey),
			Value: []byte(lines.Text()),
		}
		if !broadcasts[event.Type] {
			send(ctx, byKey, record)
			continue
		}
		count := partitions(ctx, byNumber, record.Topic)
		for record.Partition = 0; record.Partition < count; record.Partition++ {
			send(ctx, byNumber, record)
		}
	}
}
