// FerretDB with its SQLite backend as a stand-in for mongod: `ferretdb HOST:PORT FOLDER-URL`.
//
// FerretDB 1.24 updates in two steps, find and then replace, so two updates that compare and set can both succeed. In
// mongod each command is atomic per document. The front in front of it therefore lets one command through at a time.
package main

import (
	"context"
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

const (
	headerSize  = 16
	maxSize     = 48_000_000
	opMsg       = 2013
	moreToCome  = 2
	opCodeAt    = 12
	opMsgFlagAt = 16
)

var oneAtATime sync.Mutex

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Handler:   "sqlite",
		SQLiteURL: os.Args[2],
	})
	if err != nil {
		log.Fatal(err)
	}
	inner, err := url.Parse(server.MongoDBURI())
	if err != nil {
		log.Fatal(err)
	}
	front, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	go accept(front, inner.Host)
	if err := server.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

func accept(front net.Listener, inner string) {
	for {
		client, err := front.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(client, inner)
	}
}

func serve(client net.Conn, inner string) {
	defer client.Close()
	server, err := net.Dial("tcp", inner)
	if err != nil {
		log.Print(err)
		return
	}
	defer server.Close()
	for {
		request, err := read(client)
		if err != nil {
			return
		}
		answer, err := exchange(server, request)
		if err != nil {
			log.Print(err)
			return
		}
		if _, err := client.Write(answer); err != nil {
			return
		}
	}
}

func exchange(server net.Conn, request []byte) ([]byte, error) {
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	if _, err := server.Write(request); err != nil {
		return nil, err
	}
	if isOpMsg := binary.LittleEndian.Uint32(request[opCodeAt:]) == opMsg; isOpMsg && request[opMsgFlagAt]&moreToCome != 0 {
		return nil, nil // an unacknowledged write has no answer
	}
	return read(server)
}

func read(from net.Conn) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(header)
	if size <= headerSize || size > maxSize {
		return nil, io.ErrUnexpectedEOF
	}
	message := make([]byte, size)
	copy(message, header)
	_, err := io.ReadFull(from, message[headerSize:])
	return message, err
}
