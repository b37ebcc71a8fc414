"""The API's pages: `?page=2&page_size=100`."""

from rest_framework.pagination import PageNumberPagination


class Page(PageNumberPagination):
    page_size_query_param = "page_size"
    max_page_size = 500
