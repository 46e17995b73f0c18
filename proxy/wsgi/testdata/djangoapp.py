from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="test", MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    LOGGING_CONFIG=None)

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


def index(request):
    return HttpResponse("hello from django at %s" % request.build_absolute_uri())


def upload(request):
    f = request.FILES["f"]
    return HttpResponse("%s: %d bytes, %s" % (f.name, len(f.read()), request.POST["n"]))


def stream(request):
    return StreamingHttpResponse(("%d " % i for i in range(3)), content_type="text/plain")


def fail(request):
    raise LookupError("in a view")


urlpatterns = [path("", index), path("upload", upload), path("stream", stream), path("fail", fail)]
application = get_wsgi_application()
