// A mutating admission webhook that decides nothing: it answers every review with one and the same patch.
//
// It is what a webhook costs an API server before it does any work, in the language that most of them are written in.
// Usage: canned CERTIFICATE KEY PATCH, all of them files.
package main

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
)

// The first "uid" of a review is the request's; nothing else of it has to be understood.
var uid = regexp.MustCompile(`"uid":"([^"]+)"`)

const review = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview",` +
	`"response":{"uid":"%s","allowed":true,"patchType":"JSONPatch","patch":"%s"}}`

func main() {
	certificate, key := os.Args[1], os.Args[2]
	content, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	patch := base64.StdEncoding.EncodeToString(content)
	http.HandleFunc("/mutate", func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		found := uid.FindSubmatch(body)
		if err != nil || found == nil {
			http.Error(writer, "no review", http.StatusBadRequest)
			return
		}
		answer := fmt.Sprintf(review, found[1], patch)
		writer.Header().Set("Content-Type", "application/json")
		writer.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = io.WriteString(writer, answer)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("serving on https://%s/mutate\n", listener.Addr())
	// HTTP/1.1, as ours and as Go's webhooks have it by default since CVE-2023-44487.
	server := &http.Server{TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	log.Fatal(server.ServeTLS(listener, certificate, key))
}
