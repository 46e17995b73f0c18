package proxy

import "net/http"

func (s *shelf) serveListing(w http.ResponseWriter, r *http.Request, x *exchange, path string) error {
	return nil
}
