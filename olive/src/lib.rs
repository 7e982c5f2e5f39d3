//! The task queue that people leave Celery for.
