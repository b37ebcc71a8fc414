"""The registry's addresses below `/api/v1/`."""

from rest_framework.routers import SimpleRouter

from models_app.api.views import ModelViewSet, VersionViewSet

router = SimpleRouter(trailing_slash=False)
router.register("models", ModelViewSet, basename="model")
router.register(
    r"models/(?P<model_slug>[-a-zA-Z0-9_]+)/versions", VersionViewSet, basename="version"
)

urlpatterns = router.urls
