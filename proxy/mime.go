package proxy

import "strings"

// mimeType returns the media type for a file name, by its extension. It never looks into the file, as what a user has
// uploaded must not choose to be HTML.
func mimeType(name string) string {
	ext := lowerASCII(extension(name[strings.LastIndexByte(name, '/')+1:]))
	if t := textType(ext); t != "" {
		return t + "; charset=utf-8"
	}
	for _, types := range [...]func(string) string{imageType, mediaType, documentType, archiveType, applicationType} {
		if t := types(ext); t != "" {
			return t
		}
	}
	return "application/octet-stream"
}

// extension is what follows the last dot, empty without one.
func extension(name string) string {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return ""
	}
	return name[dot+1:]
}

func textType(ext string) string {
	switch ext {
	case "html", "htm", "shtml":
		return "text/html"
	case "css":
		return "text/css"
	case "js", "mjs", "cjs":
		return "text/javascript"
	case "txt", "text", "log", "conf", "ini", "yaml", "yml", "toml", "diff", "patch", "asc", "srt",
		"go", "rs", "java", "py", "rb", "pl", "pm", "lua", "sql", "sh":
		return "text/plain"
	case "md", "markdown":
		return "text/markdown"
	case "csv":
		return "text/csv"
	case "tsv":
		return "text/tab-separated-values"
	case "ics", "ifb":
		return "text/calendar"
	case "vcf", "vcard":
		return "text/vcard"
	case "vtt":
		return "text/vtt"
	case "rtx":
		return "text/richtext"
	case "sgml", "sgm":
		return "text/sgml"
	case "appcache":
		return "text/cache-manifest"
	case "htc":
		return "text/x-component"
	case "jad":
		return "text/vnd.sun.j2me.app-descriptor"
	case "wml":
		return "text/vnd.wap.wml"
	case "c", "h", "cc", "cpp", "hpp":
		return "text/x-c"
	}
	return ""
}

func imageType(ext string) string {
	switch ext {
	case "gif":
		return "image/gif"
	case "jpg", "jpeg", "jpe", "jfif":
		return "image/jpeg"
	case "png":
		return "image/png"
	case "apng":
		return "image/apng"
	case "webp":
		return "image/webp"
	case "avif":
		return "image/avif"
	case "avifs":
		return "image/avif-sequence"
	case "heic":
		return "image/heic"
	case "heif":
		return "image/heif"
	case "jxl":
		return "image/jxl"
	case "svg":
		return "image/svg+xml"
	case "ico", "cur":
		return "image/x-icon"
	case "bmp", "dib":
		return "image/bmp"
	case "tif", "tiff":
		return "image/tiff"
	case "jp2":
		return "image/jp2"
	case "jng":
		return "image/x-jng"
	case "psd":
		return "image/vnd.adobe.photoshop"
	case "djvu", "djv":
		return "image/vnd.djvu"
	case "wbmp":
		return "image/vnd.wap.wbmp"
	case "pnm", "pbm", "pgm", "ppm":
		return "image/x-portable-anymap"
	case "xbm":
		return "image/x-xbitmap"
	case "xpm":
		return "image/x-xpixmap"
	}
	return ""
}

// mediaType covers sound, film and fonts.
func mediaType(ext string) string {
	switch ext {
	case "mp3":
		return "audio/mpeg"
	case "m4a":
		return "audio/mp4"
	case "aac":
		return "audio/aac"
	case "oga", "ogg":
		return "audio/ogg"
	case "opus":
		return "audio/opus"
	case "flac":
		return "audio/flac"
	case "wav":
		return "audio/wav"
	case "weba":
		return "audio/webm"
	case "mid", "midi", "kar":
		return "audio/midi"
	case "aif", "aiff", "aifc":
		return "audio/aiff"
	case "ra":
		return "audio/x-realaudio"
	case "m3u":
		return "audio/x-mpegurl"
	case "mp4", "m4v":
		return "video/mp4"
	case "webm":
		return "video/webm"
	case "ogv":
		return "video/ogg"
	case "mpeg", "mpg", "mpe":
		return "video/mpeg"
	case "mov", "qt":
		return "video/quicktime"
	case "mkv":
		return "video/x-matroska"
	case "avi":
		return "video/x-msvideo"
	case "flv":
		return "video/x-flv"
	case "wmv":
		return "video/x-ms-wmv"
	case "asf", "asx":
		return "video/x-ms-asf"
	case "3gp", "3gpp":
		return "video/3gpp"
	case "ts", "m2ts":
		return "video/mp2t"
	case "woff":
		return "font/woff"
	case "woff2":
		return "font/woff2"
	case "ttf":
		return "font/ttf"
	case "otf":
		return "font/otf"
	case "ttc":
		return "font/collection"
	case "eot":
		return "application/vnd.ms-fontobject"
	case "m3u8":
		return "application/vnd.apple.mpegurl"
	case "mpd":
		return "application/dash+xml"
	}
	return ""
}

func documentType(ext string) string {
	switch ext {
	case "pdf":
		return "application/pdf"
	case "ps", "eps", "ai":
		return "application/postscript"
	case "rtf":
		return "application/rtf"
	case "epub":
		return "application/epub+zip"
	case "mobi":
		return "application/x-mobipocket-ebook"
	case "tex":
		return "application/x-tex"
	case "doc", "dot":
		return "application/msword"
	case "docx":
		return "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
	case "xls", "xlt":
		return "application/vnd.ms-excel"
	case "xlsx":
		return "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
	case "ppt", "pps":
		return "application/vnd.ms-powerpoint"
	case "pptx":
		return "application/vnd.openxmlformats-officedocument.presentationml.presentation"
	case "vsd":
		return "application/vnd.visio"
	case "odt":
		return "application/vnd.oasis.opendocument.text"
	case "ods":
		return "application/vnd.oasis.opendocument.spreadsheet"
	case "odp":
		return "application/vnd.oasis.opendocument.presentation"
	case "odg":
		return "application/vnd.oasis.opendocument.graphics"
	case "kml":
		return "application/vnd.google-earth.kml+xml"
	case "kmz":
		return "application/vnd.google-earth.kmz"
	}
	return ""
}

func archiveType(ext string) string {
	switch ext {
	case "zip":
		return "application/zip"
	case "gz", "tgz":
		return "application/gzip"
	case "bz2", "tbz2":
		return "application/x-bzip2"
	case "xz", "txz":
		return "application/x-xz"
	case "zst":
		return "application/zstd"
	case "br":
		return "application/x-brotli"
	case "7z":
		return "application/x-7z-compressed"
	case "rar":
		return "application/vnd.rar"
	case "tar":
		return "application/x-tar"
	case "cpio":
		return "application/x-cpio"
	case "jar", "war", "ear":
		return "application/java-archive"
	case "deb", "udeb":
		return "application/vnd.debian.binary-package"
	case "rpm":
		return "application/x-rpm"
	case "apk":
		return "application/vnd.android.package-archive"
	case "dmg":
		return "application/x-apple-diskimage"
	case "iso":
		return "application/x-iso9660-image"
	}
	return ""
}

func applicationType(ext string) string {
	switch ext {
	case "json", "map":
		return "application/json"
	case "jsonld":
		return "application/ld+json"
	case "geojson":
		return "application/geo+json"
	case "webmanifest":
		return "application/manifest+json"
	case "xml", "xsl", "xsd", "rng": // no charset: the XML declaration says it
		return "application/xml"
	case "xslt":
		return "application/xslt+xml"
	case "xhtml", "xht":
		return "application/xhtml+xml"
	case "dtd":
		return "application/xml-dtd"
	case "atom":
		return "application/atom+xml"
	case "rss":
		return "application/rss+xml"
	case "rdf":
		return "application/rdf+xml"
	case "wsdl":
		return "application/wsdl+xml"
	case "gpx":
		return "application/gpx+xml"
	case "xspf":
		return "application/xspf+xml"
	case "wasm":
		return "application/wasm"
	case "swf":
		return "application/x-shockwave-flash"
	case "jnlp":
		return "application/x-java-jnlp-file"
	case "xpi":
		return "application/x-xpinstall"
	case "torrent":
		return "application/x-bittorrent"
	case "pem", "crt", "der":
		return "application/x-x509-ca-cert"
	case "p12", "pfx":
		return "application/x-pkcs12"
	case "p7s":
		return "application/pkcs7-signature"
	case "pgp", "gpg":
		return "application/pgp-encrypted"
	case "sqlite", "sqlite3":
		return "application/vnd.sqlite3"
	}
	return ""
}

// lowerASCII folds A to Z only: other letters that fold to these are not these.
func lowerASCII(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return 'A' <= c && c <= 'Z' }) < 0 {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + ('a' - 'A')
		}
	}
	return string(b)
}
