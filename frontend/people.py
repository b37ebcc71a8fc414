"""Signing in and out, and everyone's own profile."""

from django.contrib.auth import views as auth
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from frontend.page import page


class SignIn(auth.LoginView):
    """With a name and a password; then on to where one wanted to go."""

    template_name = "frontend/sign_in.html"
    next_page = "frontend:overview"
    redirect_authenticated_user = True


class SignOut(auth.LogoutView):
    """By POST only: nobody is signed out by an image of another site."""

    next_page = "frontend:sign-in"


@page()
def profile(request: HttpRequest) -> HttpResponse:
    """Who one is here, and one's personal tokens."""
    return render(request, "frontend/profile.html")


urlpatterns = [
    path("sign-in/", SignIn.as_view(), name="sign-in"),
    path("sign-out/", SignOut.as_view(), name="sign-out"),
    path("profile/", profile, name="profile"),
]
