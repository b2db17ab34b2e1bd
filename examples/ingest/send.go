// Send the events on standard input, a JSON array, to `projector ingest`:
//
//	INGEST_URL=http://127.0.0.1:8002 INGEST_TOKEN=... go run send.go < events.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const tries = 10

type finding struct {
	Index  int    `json:"index"`
	Reason string `json:"reason"`
}

type answer struct {
	Message  string    `json:"message"`
	Errors   []finding `json:"errors"`
	Warnings []finding `json:"warnings"`
}

// post sends the events once.
func post(client *http.Client, events []byte) (*http.Response, []byte, error) {
	request, err := http.NewRequest("POST", os.Getenv("INGEST_URL")+"/events", bytes.NewReader(events))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("INGEST_TOKEN"))
	request.Header.Set("Content-Type", "application/cloudevents-batch+json")
	request.Header.Set("Prefer", "wait=5") // answer once lookups see the events
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

// send sends until taken or refused; a `sequence` keeps late repeats harmless.
func send(events []byte) (status int, body []byte, err error) {
	client := &http.Client{Timeout: 30 * time.Second}
	for range tries {
		wait := time.Second
		var response *http.Response
		response, body, err = post(client, events)
		if err == nil {
			status = response.StatusCode
			if status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests {
				return status, body, nil
			}
			if seconds, wrong := strconv.Atoi(response.Header.Get("Retry-After")); wrong == nil {
				wait = time.Duration(seconds) * time.Second
			}
		}
		time.Sleep(wait)
	}
	return status, body, err
}

func main() {
	events, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	status, body, err := send(events)
	if err != nil {
		fmt.Fprintln(os.Stderr, "not sent:", err)
		os.Exit(1)
	}
	var found answer
	_ = json.Unmarshal(body, &found) // a 204 has no body
	for _, event := range append(found.Warnings, found.Errors...) {
		fmt.Fprintf(os.Stderr, "event %d: %s\n", event.Index, event.Reason)
	}
	if status >= 400 {
		fmt.Fprintf(os.Stderr, "%d: %s\n", status, found.Message)
		os.Exit(1)
	}
}
