--- What is offered before there is a server to ask; a test holds it to the server's catalogue.
return {
  name = 'qwen2.5-coder-0.5b',
  offer = '491 MB, 92 programming languages, 63 % of 150 tasks right, Apache-2.0',
}
