package main

import (
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gateway/routes"
)

// newLogger logs to standard error. The supervisor and the front each have one; name tells them apart.
func newLogger(c routes.Log, name string) *zap.SugaredLogger {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		level = zapcore.InfoLevel
	}
	ec := zap.NewProductionEncoderConfig()
	ec.EncodeTime = zapcore.ISO8601TimeEncoder
	ec.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(ec)
	if c.Format != "json" {
		ec.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(ec)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), level)
	// Whatever clients or children provoke, a second has room for some lines of a kind, and then for one in a hundred.
	core = zapcore.NewSamplerWithOptions(core, time.Second, 50, 100)
	return zap.New(core).Named(name).Sugar()
}
