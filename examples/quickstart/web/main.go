// Command web is the small service that the quickstart bakes into an image.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	addr := flag.String("listen", ":8080", "address to listen on")
	path := flag.String("greeting", "/etc/web/greeting", "file with the greeting")
	check := flag.Bool("check", false, "read the greeting, print it and exit")
	flag.Parse()
	b, err := os.ReadFile(*path)
	if err != nil {
		log.Fatal(err)
	}
	greeting := strings.TrimSpace(string(b))
	if *check {
		fmt.Println(greeting)
		return
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, greeting)
	})
	srv := &http.Server{Addr: *addr, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(srv.ListenAndServe())
}
