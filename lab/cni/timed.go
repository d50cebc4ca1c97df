// A CNI plugin that runs another one and notes how long it took: the time that the runtime waits.
//
// Installed under the name of the plugin it stands for, it runs `real/<name>` beside itself with the same standard input, output and
// environment, and appends one JSON line to `times.jsonl` in the directory above.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

type call struct {
	At           float64 `json:"at"` // seconds since 1970, at the beginning
	Plugin       string  `json:"plugin"`
	Command      string  `json:"command"`
	Container    string  `json:"container"`
	Pod          string  `json:"pod"` // CNI_ARGS as the runtime gave them
	Milliseconds float64 `json:"ms"`
	Exit         int     `json:"exit"`
}

func main() {
	begin := time.Now()
	name := filepath.Base(os.Args[0])
	folder := filepath.Dir(os.Args[0])
	plugin := exec.Command(filepath.Join(folder, "real", name))
	plugin.Stdin, plugin.Stdout, plugin.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := plugin.Run()
	took := time.Since(begin)
	if plugin.ProcessState == nil {
		fmt.Printf("{\"cniVersion\": \"1.0.0\", \"code\": 100, \"msg\": %q}\n", err)
		os.Exit(1)
	}
	line, _ := json.Marshal(call{
		At:           float64(begin.UnixMicro()) / 1e6,
		Plugin:       name,
		Command:      os.Getenv("CNI_COMMAND"),
		Container:    os.Getenv("CNI_CONTAINERID"),
		Pod:          os.Getenv("CNI_ARGS"),
		Milliseconds: float64(took.Microseconds()) / 1e3,
		Exit:         plugin.ProcessState.ExitCode(),
	})
	if file, err := os.OpenFile(filepath.Join(filepath.Dir(folder), "times.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
		// One write of less than a page: lines of parallel calls do not mix.
		_, _ = file.Write(append(line, '\n'))
		_ = file.Close()
	}
	os.Exit(plugin.ProcessState.ExitCode())
}
